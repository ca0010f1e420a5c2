"""What an export says of itself: a record for each placement, how it was reviewed, what made it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from napari_histomix.datasets.tables import write_table
from napari_histomix.records import Placement

if TYPE_CHECKING:
    from napari_histomix.study.store import Study, Subject

FACTS = ("candidate_settings", "encoder", "temperature", "effective_sample_size", "synthesis_settings", "refusals")
"""What a manifest takes over from a study of nuclei."""

MIX_FACTS = {"mix_settings": "mix_settings", "mix_refusals": "refusals"}
"""What a manifest takes over from a study of tissue, and what it is called there."""


def nuclei_facts(study: Study) -> dict[str, Any]:
    """What the manifest says of a study's search and synthesis."""
    kept = study.settings()
    return {key: kept[key] for key in FACTS if key in kept}


def tissue_facts(study: Study, signature: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of a study's mixes; ``signature`` is that of its segment pool.

    ``decisions`` are those on approved mixes, by name.
    """
    kept = study.settings()
    found = {name: kept[key] for key, name in MIX_FACTS.items() if kept.get(key) is not None}
    names, reviews = study.mix_names(), reviews_of(study, "mix")
    approved = [number for number, decision in study.decisions("mix").items() if decision == "approve"]
    decisions = {names[number]: {"decision": "approve", **reviews[number]} for number in approved}
    return {"refusals": {}, **found, "pool": dict(signature), "decisions": decisions}


def reviews_of(study: Study, subject: Literal["placement", "mix"] = "placement") -> dict[int, dict[str, str]]:
    """Who decided on each placement (or mix) and when, with the note and the reasons, for its record."""
    found: dict[int, dict[str, str]] = {}
    about: tuple[Subject, Subject] = ("mix note", "mix reasons")
    if subject == "placement":
        about = ("placement note", "placement reasons")
    for number, one in study.decided(subject).items():
        found.setdefault(number, {}).update(decided_by=one.who, decided=one.made)
    for key, texts in (("note", study.decisions(about[0])), ("reasons", study.decisions(about[1]))):
        for number, text in texts.items():
            found.setdefault(number, {})[key] = text
    return found


def placement_record(
    one: Placement, names: Mapping[int, str], decision: str, review: Mapping[str, Any]
) -> dict[str, Any]:
    """What the manifest says of a placement, as plain JSON values."""
    target, donor = asdict(one.candidate.target), asdict(one.candidate.donor)
    for place in (target, donor):
        place["type"] = names.get(place["type"], "")
    return {
        "rank": one.candidate.rank,
        "image": target["image"],
        "instance": one.instance,
        "decision": decision,
        **review,
        "log_likelihood": round(one.candidate.log_likelihood, 6),
        "percentile": round(one.candidate.percentile, 3),
        "target": target,
        "donor": donor,
        "seed": one.seed,
        "changed_pixels": int(np.count_nonzero(one.origin)),
        "provenance": dict(one.provenance),
    }


def json_text(content: Any) -> str:
    """A manifest as text."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def write_placement_table(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as a table: nested ones as columns such as ``target_row`` and ``provenance_stain_gain``."""
    flat = [{key: _flat(value) for key, value in _unfold(record).items()} for record in records]
    header = list(dict.fromkeys(key for record in flat for key in record))
    write_table(path, header, [[record.get(key, "") for key in header] for record in flat])


def _unfold(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for key, value in record.items():
        columns |= _unfold(value, f"{prefix}{key}_") if isinstance(value, Mapping) else {prefix + key: value}
    return columns


def _flat(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def methods_of(provenances: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the synthetic nuclei were made, one sentence for each sampler."""
    samplers = sorted({str(one.get("sampler", "")) for one in provenances})
    how = "NucleiMix: real nuclei of a rare class, copied to candidate locations and blended in by a diffusion model"
    return [f"{how} (sampler {one})." if one else f"{how}." for one in samplers]
