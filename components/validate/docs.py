"""The Data Docs as one HTML file: Great Expectations' own rendering of the results, in a page that loads nothing."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from great_expectations.render.view import DefaultJinjaPageView
from jinja2 import ChoiceLoader, DictLoader

if TYPE_CHECKING:
    from components.validate.report import Finding, ValidationReport

_SUMMARY_PLACE = "<!-- summary -->"

_STYLE = """
:root { color-scheme: light dark; --text: #1c2127; --soft: #5c6670; --page: #fff; --box: #f3f5f7; --line: #d5dbe1;
  --bad: #b3261e; --warn: #8a5a00; --good: #1a6e3c; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ec; --soft: #a0abb5; --page: #15181c; --box: #20252b;
  --line: #39424c; --bad: #ff8a80; --warn: #f0b429; --good: #6fd08c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h5, h6 { font-size: 1rem; margin: 0; }
code { font: .875rem/1.5 ui-monospace, monospace; }
p, ul { margin: .5rem 0; } ul { padding-left: 1.25rem; }
.soft { color: var(--soft); } .critical, .text-danger { color: var(--bad); } .warning { color: var(--warn); }
.good, .text-success { color: var(--good); }
.finding { border-left: 4px solid; padding: .1rem 1rem; margin: .75rem 0; background: var(--box); }
.finding > * { color: var(--text); } .finding > .tag { color: inherit; font-weight: 600; }
.ge-section { margin: 1.25rem 0; }
.alert { background: var(--box); border-radius: 6px; padding: .4rem .75rem; }
.badge { background: var(--box); border-radius: 4px; padding: 0 .3rem; }
.table-responsive, .show-scrollbars { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
th { overflow-wrap: normal; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid var(--line); }
th:first-child { width: 5rem; } th:last-child { width: 11rem; }
td table { margin-top: .5rem; font-size: .875rem; }
td th:first-child, td th:last-child { width: auto; }
td td { min-width: 5rem; } td td:last-child { min-width: 9rem; }
/* On a phone the three columns stand one below the other, so that nothing scrolls sideways. */
@media (max-width: 40rem) {
  table, tbody, tr, td { display: block; } thead { display: none; } td { border: 0; padding: .1rem 0; }
  tr { border-bottom: 1px solid var(--line); padding: .4rem 0; }
  td tr { display: flex; flex-wrap: wrap; gap: .1rem 1rem; padding: .2rem 0; }
  td td, td td:last-child { min-width: 0; }
}
.fas { font-style: normal; font-weight: 700; } .fa-check-circle::before { content: "\\2713"; }
.fa-times::before { content: "\\2717"; }
"""

# Around the sections, Great Expectations' own page loads styles and scripts from other hosts and links to pages
# that are not in this file; the sections themselves stay as its templates render them.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>Data Docs</title>
<style>__STYLE__</style>
</head>
<body>
<main>
__SUMMARY__
<h2>Every expectation, as Great Expectations {{ ge_version }} tells it</h2>
{% for section in sections %}{% set section_loop = loop %}{% if not loop.first %}
<div id="section-{{ loop.index }}" class="ge-section">
{% for content_block in section["content_blocks"] %}{% set content_block_loop = loop %}
{% include "component.j2" %}
{% endfor %}
</div>
{% endif %}{% endfor %}
</main>
</body>
</html>
""".replace("__STYLE__", _STYLE).replace("__SUMMARY__", _SUMMARY_PLACE)


class SelfContainedPageView(DefaultJinjaPageView):  # type: ignore[misc]  # no types are followed into GX
    """The page view of Great Expectations with our page around its sections."""

    def __init__(self, custom_styles_directory: str | None = None, custom_views_directory: str | None = None) -> None:
        super().__init__(custom_styles_directory, custom_views_directory)
        self.env.loader = ChoiceLoader([DictLoader({"page.j2": _PAGE}), self.env.loader])


def site_config(site: Path) -> dict[str, Any]:
    """The configuration of a Data Docs site of validation results alone, in a folder."""
    return {
        "class_name": "SiteBuilder",
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(site)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "site_section_builders": {
            "expectations": "None",
            "profiling": "None",
            "validations": {"view": {"module_name": __name__, "class_name": SelfContainedPageView.__name__}},
        },
    }


def render_page(site: Path, report: ValidationReport, facts: dict[str, Any]) -> str:
    """The site's one page of results with a plain summary on top; the same results give the same page."""
    page = next(site.glob("validations/**/*.html")).read_text(encoding="utf-8")
    lines = (line.strip() for line in page.replace(_SUMMARY_PLACE, _summary(report, facts)).splitlines())
    return "\n".join(line for line in lines if line) + "\n"


def _summary(report: ValidationReport, facts: dict[str, Any]) -> str:
    failed = len(report.critical_failures) + len(report.warnings)
    verdict = '<span class="good">passed</span>' if report.passed else '<span class="critical">failed</span>'
    dataset = " ".join(str(facts.get(key, "")) for key in ("source", "collection", "version")).strip()
    return "\n".join(
        [
            f"<h1>The dataset {verdict} validation</h1>",
            f'<p class="soft">{escape(dataset)}</p>',
            f"<p>{report.images} images, {report.pairs} pairs, {report.subjects} subjects.",
            f"{report.expectations - failed} of {report.expectations} expectations hold;",
            f"critical failures: {len(report.critical_failures)}, warnings: {len(report.warnings)}.</p>",
            *(_told(finding, "critical") for finding in report.critical_failures),
            *(_told(finding, "warning") for finding in report.warnings),
            *(f'<p class="soft">Not judged. {escape(reason)}</p>' for reason in report.skipped),
        ]
    )


def _told(finding: Finding, severity: str) -> str:
    items = [
        f"<li><code>{escape(file)}</code> {escape(detail)}</li>"
        for file, detail in zip(finding.files, finding.details, strict=True)
    ]
    if finding.count > len(finding.files):
        items.append(f"<li>and {finding.count - len(finding.files)} more</li>")
    return "\n".join(
        [
            f'<div class="finding {severity}"><p class="tag">{severity.capitalize()}: {escape(finding.complaint)}</p>',
            f"<p>Expected: {escape(finding.sentence)}</p>",
            *(["<ul>", *items, "</ul>"] if items else []),
            "</div>",
        ]
    )
