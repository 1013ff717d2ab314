"""The published experiment's split of the atlas, by name; this project's own is by subject."""

PAPER_COLLECTION = "CT-MRI"

PAPER_TEST_PAIRS = (
    "16013", "2007", "2012", "2017", "28010", "32003", "34003", "34008", "34014", "37007",
    "37008", "37009", "37013", "37015", "37016", "37017", "37022", "41007", "41011", "41015",
)  # fmt: skip
"""The 20 CT-MR test pairs behind the published figures, drawn at random over slices: neighbouring slices of a subject
stand on both sides, so the split leaks. Every other pair is for training."""
