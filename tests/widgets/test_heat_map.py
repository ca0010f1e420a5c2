"""The map of how well a rare nucleus fits: its values, and the layer that follows the image on the screen."""

from __future__ import annotations

import numpy as np
import pytest

from napari_histomix.widgets.heat_map import COLORS, NAME, fit_map


@pytest.fixture
def panel(candidates_page):
    return candidates_page


def test_values_are_weighted_means_of_what_is_near_and_nothing_is_said_far_away() -> None:
    places = np.array([(40.0, 40.0), (40.0, 120.0), (159.0, 199.0)])
    values = fit_map(places, np.array([10.0, 90.0, 50.0]), (160, 200), 4.0, 20.0)
    assert values.shape == (40, 50) and values.dtype == np.float32
    assert values[10, 10] == pytest.approx(10, abs=0.5) and values[10, 30] == pytest.approx(90, abs=0.5)
    assert values[39, 49] == pytest.approx(50, abs=0.5), "at the border too"
    assert np.isnan(values[30, 20]) and np.isnan(values[10, 42])
    assert np.nanmin(values) >= 9.99 and np.nanmax(values) <= 90.01
    assert np.isnan(fit_map(np.zeros((0, 2)), np.zeros(0), (160, 200), 4.0, 20.0)).all()


def test_colors_grow_lighter_in_even_steps_whatever_color_is_not_seen() -> None:
    rgb = np.array([[int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)] for color in COLORS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    # Machado et al., IEEE TVCG 15, 2009: deuteranopia and protanopia at full severity.
    deuteranopia = np.array([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]])
    protanopia = np.array([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]])
    for seen in (np.eye(3), deuteranopia, protanopia):
        luminance = np.clip(linear @ seen.T, 0, 1) @ [0.2126, 0.7152, 0.0722]
        lightness = 116 * np.cbrt(luminance) - 16
        assert np.diff(lightness).min() > 10


def test_the_layer_follows_the_image_and_goes_with_the_button(panel, qtbot) -> None:
    heat, viewer, session = panel.heat, panel.viewer, panel.session

    def settled() -> bool:
        return not heat.runner.busy and not panel.book.busy

    assert NAME not in viewer.layers and not heat.legend.isVisible(), "off at first"
    heat.button.click()
    qtbot.waitUntil(lambda: heat.layer is not None and settled(), timeout=20_000)
    image = panel.book.layer("a", "image")
    assert viewer.layers.index(heat.layer) == viewer.layers.index(image) + 1 and heat.layer.opacity == 0.5
    assert np.allclose(heat.layer.extent.world, image.extent.world, atol=2.1) and heat.legend.isVisible()
    assert viewer.layers.selection.active is not heat.layer
    frame = session.candidates.frame
    best = frame[frame["image"] == "a"].sort_values("percentile").iloc[-1]
    world = image.data_to_world((best["row"], best["col"]))
    assert heat.layer.get_value(world, world=True) > np.nanmean(heat.layer.data)

    before = heat.layer
    session.step(1)
    qtbot.waitUntil(lambda: session.image == "b" and settled() and heat._shown[0] == "b", timeout=20_000)
    assert heat.layer is before and before.metadata["histomix"]["image"] == "b"
    heat.button.click()
    assert NAME not in viewer.layers and not heat.legend.isVisible()
    heat.button.click()
    qtbot.waitUntil(lambda: heat.layer is not None and settled(), timeout=20_000)
    viewer.layers.remove(heat.layer)
    assert not heat.button.isChecked() and heat.layer is None
