"""Draw a compiled pipeline: its steps from top to bottom, in their groups, with what they put out and hand on.

python -m benchmarks.graph -o docs/retraining.svg retraining
"""

import argparse
import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

WIDTH, HEIGHT, GAP, LEFT, INSET = 400, 54, 22, 150, 16
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1c2733; } .step { font-weight: 600; }
.small { font-size: 11px; fill: #5a6b7b; } .box { fill: #fff; stroke: #8aa0b5; }
.group { fill: #eef3f8; fill-opacity: .6; stroke: #8aa0b5; stroke-dasharray: 5 4; }
.edge { fill: none; stroke: #3f7cb8; stroke-width: 1.4; marker-end: url(#arrow); } .arrow { fill: #3f7cb8; }
@media (prefers-color-scheme: dark) {
text { fill: #e4ebf2; } .small { fill: #9db0c2; } .box { fill: #1b2530; stroke: #56697c; }
.group { fill: #223040; stroke: #56697c; } .edge { stroke: #77b0e8; } .arrow { fill: #77b0e8; }
svg { background: #12181f; }
}
"""


@dataclass
class Node:
    """A step, or a group of steps: its title, what it puts out, the steps that it takes something from."""

    name: str
    title: str
    outputs: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    inner: list["Node"] = field(default_factory=list)
    y: int = 0
    bottom: int = 0


def nodes(pipeline: dict[str, Any], dag: dict[str, Any]) -> list[Node]:
    """The nodes of a group, each after those that it takes something from; the one that runs in any case last."""
    found = []
    for name, task in dag["tasks"].items():
        component = pipeline["components"][task["componentRef"]["name"]]
        node = Node(name, task["taskInfo"]["name"], sources=task.get("dependentTasks", []))
        node.outputs = [
            f"{key} ({facts['artifactType']['schemaTitle'].removeprefix('system.')})"
            for key, facts in component.get("outputDefinitions", {}).get("artifacts", {}).items()
        ]
        if "dag" in component:
            node.inner, node.outputs = nodes(pipeline, component["dag"]), []
        found.append(node)
    ordered: list[Node] = []
    while found:
        ready = next(node for node in found if not {each.name for each in found} & set(node.sources))
        found.remove(ready)
        ordered.append(ready)
    return ordered


def place(group: list[Node], y: int) -> int:
    """Give every node its place below `y`; where the group ends."""
    for node in group:
        node.y = y
        node.bottom = place(node.inner, y + 26 + INSET) + INSET if node.inner else y + HEIGHT
        y = node.bottom + GAP
    return y - GAP


def draw(group: list[Node], depth: int) -> list[str]:
    """SVG of the nodes of a group and of the arrows to them; steps that are no neighbours are joined at the side."""
    made, here = [], {node.name: node for node in group}
    x, width = LEFT - depth * INSET, WIDTH + 2 * depth * INSET
    for node in group:
        box = f'x="{x}" y="{node.y}" width="{width}" height="{node.bottom - node.y}" rx="8"'
        made.append(f'<rect class="{"group" if node.inner else "box"}" {box}/>')
        made.append(f'<text class="step" x="{x + 12}" y="{node.y + 21}">{html.escape(node.title)}</text>')
        if not node.inner:
            end, under = f'x="{x + width - 12}" y="{node.y + 21}" text-anchor="end"', f'x="{x + 12}" y="{node.y + 40}"'
            made.append(f'<text class="small" {end}>{node.name}</text>')
            made.append(f'<text class="small" {under}>{html.escape(", ".join(node.outputs))}</text>')
        made += draw(node.inner, depth - 1)
        for source in node.sources:
            made.append(_arrow(here[source], node, group, x, width))
    return made


def _arrow(source: Node, node: Node, group: list[Node], x: int, width: int) -> str:
    between = group.index(node) - group.index(source)
    if between == 1:
        return f'<path class="edge" d="M{x + width / 2} {source.bottom} V{node.y - 2}"/>'
    reach, start, end = 14 + 13 * between, source.y + HEIGHT - 12, node.y + 14
    return f'<path class="edge" d="M{x} {start} C{x - reach} {start} {x - reach} {end} {x - 3} {end}"/>'


def main() -> None:
    """Read the compiled pipeline and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipeline", help="training, retraining, sweep or batch_fusion")
    parser.add_argument("-o", "--output", type=Path, required=True)
    chosen = parser.parse_args()
    file = Path(__file__).parents[1] / "pipelines" / f"{chosen.pipeline}.yaml"
    pipeline, _ = yaml.safe_load_all(file.read_text())
    root = nodes(pipeline, pipeline["root"]["dag"])
    bottom = place(root, GAP)
    body = draw(root, 2)
    width, height = WIDTH + 2 * LEFT, bottom + GAP
    arrow = '<marker id="arrow" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    chosen.output.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" aria-label="{html.escape(pipeline["pipelineInfo"]["description"])}">\n<style>{STYLE}</style>\n'
        f'<defs>{arrow}<path class="arrow" d="M0 0 L8 4 L0 8 z"/></marker></defs>\n' + "\n".join(body) + "\n</svg>\n"
    )


if __name__ == "__main__":
    main()
