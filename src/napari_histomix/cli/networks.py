"""Commands that train and test networks: train, blend-test."""

from __future__ import annotations

import argparse
from typing import Any

from napari_histomix.cli.common import follow, open_data, say


def run_train(options: argparse.Namespace) -> dict[str, Any]:
    """Train a network of one kind on folders of images."""
    from dataclasses import replace

    from napari_histomix.datasets.splits import read_splits
    from napari_histomix.diffusion.model_files import CARD_FILE, read_json
    from napari_histomix.diffusion.training import DEFAULTS, train

    names = ("minutes", "steps", "batch", "window", "learning_rate", "save_minutes", "seed")
    chosen = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    job = train(
        options.kind,
        options.images,
        options.out,
        settings=replace(DEFAULTS[options.kind], **chosen),
        start=options.start,
        autoencoder=getattr(options, "autoencoder", None),
        mpp=scale(options.mpp),
        device=options.device,
        name=options.name,
        resume=options.resume,
        splits=read_splits(options.splits) if options.splits else None,
    )
    out = follow(job)
    best = read_json(out / CARD_FILE, "a model")["best"]
    say(options, f"Written: {out} (best at step {int(best['step'])}, validation loss {best['validation']:.4f})")
    return {"out": str(out), **best}


def scale(values: list[float] | None) -> tuple[float, float] | None:
    """The range of µm/px that one or more values span."""
    return (min(values), max(values)) if values else None


def model_of(options: argparse.Namespace) -> Any:
    """The model that ``--model`` names; the bundled one by default."""
    from napari_histomix.diffusion.model_files import load_model
    from napari_histomix.weights import bundled

    return load_model(options.model or bundled(), mpp=scale(options.model_mpp), prompt=options.prompt)


def run_blend_test(options: argparse.Namespace) -> dict[str, Any]:
    """Measure how well a model's samplers fill holes in real images."""
    from napari_histomix.evaluation.blending import (
        BlendSettings,
        blend_test,
        check_sheet,
        report_lines,
        report_values,
        write_sheet,
    )

    if options.sheet:
        check_sheet(options.sheet)
    settings = BlendSettings(
        holes=tuple(options.hole),
        samplers=tuple(options.sampler),
        count=options.count,
        seed=options.seed,
        device=options.device,
        batch=options.batch,
        spread=options.spread,
    )
    dataset = open_data(options)
    model = model_of(options)
    report = follow(blend_test(dataset, model, settings))
    say(options, *report_lines(report))
    if options.sheet:
        write_sheet(options.sheet, report)
        say(options, f"Written: {options.sheet}")
    return {
        "dataset": dataset.name,
        "model": model.name,
        "sha256": model.sha256,
        "count": settings.count,
        "seed": settings.seed,
        "sheet": str(options.sheet) if options.sheet else None,
        **report_values(report),
    }
