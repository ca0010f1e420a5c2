"""The nearest real nuclei of a study's synthetic ones, on the command line."""

from __future__ import annotations

import csv
import json

from review_samples import make_review_study

from napari_histomix.study import Study


def test_the_command_compares_every_nucleus_that_is_not_rejected_and_writes_it(run, tmp_path) -> None:
    folder = make_review_study(tmp_path / "study").folder
    nuclei = [change for change in Study.open(folder).changes() if change.in_place]
    Study.open(folder).take().decide("change", [nuclei[0].id], "reject")
    code, out, err = run("neighbor-test", folder, "--out", tmp_path / "out")
    assert code == 0, err
    assert f"{len(nuclei) - 1:,} synthetic nuclei compared" in " ".join(out)
    rows = list(csv.DictReader((tmp_path / "out" / "neighbors.csv").open(encoding="utf-8")))
    assert {int(row["number"]) - 1 for row in rows} == {change.id for change in nuclei[1:]}
    distances = [float(row["distance"]) for row in rows]
    assert distances == sorted(distances) and (tmp_path / "out" / "neighbors.png").stat().st_size > 10_000
    values = json.loads((tmp_path / "out" / "neighbors.json").read_text())
    code, out, _ = run("neighbor-test", folder, "--json")
    assert code == 0 and json.loads(out[-1])["synthetic"] == values["synthetic"] == len(rows)
