from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from napari_histomix.features import Encoder, open_encoder
from napari_histomix.features.context import context_patches
from napari_histomix.features.texture import TextureEncoder
from napari_histomix.records import HistomixError, LabeledImage, Source

OVERALL_COHERENCE = 52


def stack(patch: NDArray) -> NDArray[np.uint8]:
    return np.repeat(patch[None, ..., None], 3, axis=3).astype(np.uint8)


def test_it_is_the_default_encoder_and_keeps_its_word(patches):
    encoder = open_encoder("texture")
    assert isinstance(encoder, Encoder)
    features = encoder(patches)
    assert features.shape == (6, encoder.dim) and 40 <= encoder.dim <= 80
    assert features.dtype == np.float32 and np.isfinite(features).all()
    assert encoder(patches[:0]).shape == (0, encoder.dim)


@pytest.mark.parametrize("value", [0, 1, 128, 255])
def test_a_blank_patch_has_finite_features_and_no_texture(value):
    features = TextureEncoder()(np.full((1, 224, 224, 3), value, np.uint8))
    assert np.isfinite(features).all()
    np.testing.assert_allclose(features[0, 32:], 0, atol=1e-3)
    density = -np.log10(max(value, 1) / 255)
    np.testing.assert_allclose(features[0, [2, 10, 18]], density, atol=1e-4)


@pytest.mark.parametrize("turn", [lambda p: p[:, ::-1], lambda p: p[:, :, ::-1], lambda p: np.rot90(p, axes=(1, 2))])
def test_turns_and_flips_change_features_little(patches, turn):
    encoder = TextureEncoder()
    features, turned = encoder(patches), encoder(np.ascontiguousarray(turn(patches)))
    np.testing.assert_allclose(turned, features, rtol=1e-2, atol=1e-3)


def test_features_do_not_depend_on_threads_or_neighbors(patches):
    together = TextureEncoder(workers=3)(patches)
    np.testing.assert_array_equal(together, TextureEncoder(workers=1)(patches))
    np.testing.assert_array_equal(together[4], TextureEncoder()(patches[4:5])[0])


def test_patches_are_left_as_they_were(patches):
    before = patches.copy()
    TextureEncoder()(patches)
    np.testing.assert_array_equal(patches, before)


def test_a_pure_stain_is_found_in_its_own_channel():
    """Optical density 0.8 of hematoxylin, then of eosin, by Ruifrok's vectors."""
    for stain, (found, absent) in (((0.65, 0.70, 0.29), (0, 1)), ((0.07, 0.99, 0.11), (1, 0))):
        color = np.round(255 * 10 ** (-0.8 * np.array(stain)))
        features = TextureEncoder()(np.tile(color, (1, 224, 224, 1)).astype(np.uint8))[0]
        assert features[found] == pytest.approx(0.8, abs=0.02)
        assert features[absent] == pytest.approx(0, abs=0.02)


def test_parallel_fibers_are_more_coherent_than_spots():
    rows, cols = np.mgrid[:224, :224] / 6
    fibers = TextureEncoder()(stack(150 + 60 * np.sin(rows + cols)))[0, OVERALL_COHERENCE]
    spots = TextureEncoder()(stack(150 + 30 * np.sin(rows) + 30 * np.sin(cols)))[0, OVERALL_COHERENCE]
    assert fibers > 0.8 and spots < 0.1


@pytest.mark.parametrize("wrong", [np.zeros((2, 112, 112, 3), np.uint8), np.zeros((2, 224, 224, 3), np.float32)])
def test_patches_of_another_kind_are_refused(wrong):
    with pytest.raises(ValueError, match="patches must be"):
        TextureEncoder()(wrong)


@pytest.mark.parametrize("spec", ["", "timm:", "ctranspath", "textures", "texture:x", "resnet18"])
def test_an_unknown_encoder_is_refused_with_the_choices(spec):
    with pytest.raises(HistomixError, match="choose texture, timm:NAME"):
        open_encoder(spec)


def test_importing_the_room_and_texture_load_no_network_library():
    code = (
        "import sys, napari_histomix.features as f; f.open_encoder('texture');"
        "print(sorted({'torch', 'timm', 'huggingface_hub', 'napari', 'qtpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_surroundings_of_the_types_differ_more_in_texture_than_in_color(shared):
    """Linear discriminants by image on CoNSeP: the four types' surroundings, told by texture and by mean color."""
    import cv2
    from scipy.io import loadmat
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import GroupKFold, cross_val_predict

    root = shared / "data" / "consep-train"
    rng, texture, color, types, groups = np.random.default_rng(0), [], [], [], []
    ring = np.ones((224, 224), bool)
    ring[56:168, 56:168] = False
    for path in sorted((root / "Images").glob("*.png")):
        labels = loadmat(root / "Labels" / f"{path.stem}.mat")
        pixels = np.ascontiguousarray(cv2.imread(str(path))[..., ::-1])
        image = LabeledImage(pixels, np.zeros(pixels.shape[:2], np.int32), {}, 0.25, Source("CoNSeP", path.stem))
        kind = labels["inst_type"].ravel().astype(int)
        drawn = (kind == 1) | (rng.random(len(kind)) < 0.06)
        cut = context_patches(image, labels["inst_centroid"][drawn, ::-1])
        texture.append(TextureEncoder()(cut))
        color.append(cut[:, ring].mean(axis=1))
        types.append(kind[drawn])
        groups.append(np.full(len(cut), len(groups)))

    def accuracy(features: list[NDArray]) -> float:
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[0.25] * 4)
        truth = np.concatenate(types)
        told = cross_val_predict(
            model, np.concatenate(features), truth, groups=np.concatenate(groups), cv=GroupKFold(5)
        )
        return float(balanced_accuracy_score(truth, told))

    assert accuracy(texture) > accuracy(color) + 0.1
    assert accuracy(texture) > 0.5


def test_of_a_whole_patch_the_center_counts_too():
    rng = np.random.default_rng(0)
    flat = np.full((2, 224, 224, 3), (200, 150, 190), np.uint8)
    flat[1, 70:154, 70:154] = rng.integers(60, 220, (84, 84, 3))
    around, whole = TextureEncoder()(flat), TextureEncoder(whole=True)(flat)
    assert TextureEncoder(whole=True).name != TextureEncoder().name
    textures = [32, 37, 42]
    assert np.allclose(around[0, textures], around[1, textures], atol=0.01)
    assert (whole[1, textures] - around[1, textures]).min() > 0.005
    assert np.allclose(around[0], whole[0], atol=1e-4)
