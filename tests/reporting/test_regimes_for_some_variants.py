"""A report of a suite whose regimes have different variants: what a regime has not is no part of it, and no loss."""

from moelora.reporting import command
from moelora.reporting.cells import panels
from moelora.reporting.runs import Suite


def test_what_a_regime_does_not_run_is_absent_and_not_lost(glue_suite, tmp_path):
    frame, costs, document, _ = glue_suite
    there = frame[~((frame["variant"] == "dora") & (frame["regime"] == "tuned"))]
    there = there[~((there["variant"] == "lora") & (there["regime"] == "published"))]
    assert len(there) < len(frame)
    for panel in panels(Suite.from_frame(there, document)):
        for regime, indexes in panel.regimes:
            gone = {"dora"} if regime == "tuned" else {"lora"}
            for variant in gone & set(panel.variants):
                assert all(panel.cells[variant, i].estimate is None for i in indexes)
                assert not any(panel.cells[variant, i].lost for i in indexes)
    command.write_report(there, costs, tmp_path / "report", document, fingerprints={})
    assert "Not part of the suite." in (tmp_path / "report" / "index.html").read_text()
