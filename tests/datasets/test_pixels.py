from __future__ import annotations

import re
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, PngImagePlugin

from napari_histomix.datasets import read_mpp, read_pixels
from napari_histomix.datasets.pixels import orientation_of, read_label_image
from napari_histomix.records import HistomixError

RGB = np.random.default_rng(1).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def test_opaque_alpha_is_dropped(tmp_path):
    Image.fromarray(np.dstack([RGB, np.full((12, 10), 255, np.uint8)])).save(tmp_path / "x.png")
    assert np.array_equal(read_pixels(tmp_path / "x.png"), RGB)


def test_transparency_shows_white(tmp_path):
    alpha = np.full((12, 10), 255, np.uint8)
    alpha[0], alpha[1] = 0, 128
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "x.png")
    pixels = read_pixels(tmp_path / "x.png")
    assert (pixels[0] == 255).all()
    assert np.abs(pixels[1].astype(int) - (RGB[1] * (128 / 255) + 127)).max() <= 1
    assert np.array_equal(pixels[2:], RGB[2:])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_color_is_rounded_not_cut(tmp_path, suffix):
    wide = RGB.astype(np.uint16) * 257 + 128
    wide = np.where(RGB == 255, 65535, wide).astype(np.uint16)
    path = tmp_path / f"x.{suffix}"
    if suffix == "png":
        cv2.imwrite(str(path), wide[..., ::-1])
    else:
        tifffile.imwrite(path, wide, photometric="rgb")
    assert np.array_equal(read_pixels(path), RGB)
    # One more than half a step rounds up; taking the upper byte would not.
    tifffile.imwrite(tmp_path / "y.tif", np.where(RGB < 255, wide + 1, wide), photometric="rgb")
    assert np.array_equal(read_pixels(tmp_path / "y.tif"), np.where(RGB < 255, RGB + 1, 255))


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff_planes(tmp_path, planar):
    data = RGB if planar == "contig" else np.moveaxis(RGB, -1, 0)
    tifffile.imwrite(tmp_path / "x.tif", data, photometric="rgb", planarconfig=planar)
    assert np.array_equal(read_pixels(tmp_path / "x.tif"), RGB)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_compressed_tiff(tmp_path, compression):
    Image.fromarray(RGB).save(tmp_path / "x.tif", compression=compression)
    assert np.array_equal(read_pixels(tmp_path / "x.tif"), RGB)


def test_palette_png_is_color(tmp_path):
    flat = np.zeros((6, 6, 3), np.uint8)
    flat[2:] = (200, 30, 90)
    Image.fromarray(flat).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "x.png")
    assert np.array_equal(read_pixels(tmp_path / "x.png"), flat)


def test_grayscale_is_refused(tmp_path):
    for name, array in (("a.png", RGB[..., 0]), ("b.png", RGB[..., 0].astype(np.uint16))):
        Image.fromarray(array).save(tmp_path / name)
    tifffile.imwrite(tmp_path / "c.tif", RGB[..., 0])
    for name in ("a.png", "b.png", "c.tif"):
        with pytest.raises(HistomixError, match="grayscale image; an H&E image needs color"):
            read_pixels(tmp_path / name)


def test_other_numbers_are_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", RGB.astype(np.int16), photometric="rgb")
    with pytest.raises(HistomixError, match="holds int16 values"):
        read_pixels(tmp_path / "x.tif")
    for bits in (10, 12, 14):
        wide = RGB.astype(np.uint16) << (bits - 8)
        tifffile.imwrite(tmp_path / "w.tif", wide, photometric="rgb")
        with pytest.raises(HistomixError, match=f"uses only the values of {bits}; save it with 8"):
            read_pixels(tmp_path / "w.tif")
    tifffile.imwrite(tmp_path / "y.tif", RGB.astype(np.uint16), photometric="rgb")
    with pytest.raises(HistomixError, match="uses only the values of 8"):
        read_pixels(tmp_path / "y.tif")
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "z.jpg")
    with pytest.raises(HistomixError, match="stored as CMYK"):
        read_pixels(tmp_path / "z.jpg")
    tifffile.imwrite(tmp_path / "s.tif", np.stack([RGB, RGB]), photometric="rgb")
    with pytest.raises(HistomixError, match="more than one image"):
        read_pixels(tmp_path / "s.tif")


@pytest.mark.parametrize("name", ["x.png", "x.tif", "x.jpg", "wide.png"])
@pytest.mark.parametrize("keep", [0.0, 0.1, 0.6])
def test_a_truncated_file_is_one_sentence(tmp_path, name, keep):
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / name
    if name == "wide.png":
        cv2.imwrite(str(path), noise.astype(np.uint16) * 257)
    else:
        Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(HistomixError, match=f"{name} cannot be read as an image") as caught:
        read_pixels(path)
    assert "\n" not in str(caught.value)


def test_labels_of_8_16_and_32_bits(tmp_path):
    ids = np.array([[0, 1], [2, 200]])
    Image.fromarray(ids.astype(np.uint8)).save(tmp_path / "a.png")
    assert read_label_image(tmp_path / "a.png").tolist() == ids.tolist()
    Image.fromarray((ids * 300).astype(np.uint16)).save(tmp_path / "b.png")
    assert read_label_image(tmp_path / "b.png").tolist() == (ids * 300).tolist()
    tifffile.imwrite(tmp_path / "c.tif", (ids * 70_000).astype(np.uint32), photometric="minisblack")
    labels = read_label_image(tmp_path / "c.tif")
    assert labels.tolist() == (ids * 70_000).tolist() and labels.dtype == np.int32
    Image.fromarray((ids * 70_000).astype(np.int32)).save(tmp_path / "d.tif", compression="tiff_lzw")
    assert read_label_image(tmp_path / "d.tif").tolist() == (ids * 70_000).tolist()


def test_label_images_of_other_kinds_hold_the_ids_that_their_files_hold(tmp_path):
    ids = np.array([[0, 1], [2, 3]], np.uint8)
    table = Image.fromarray(ids, "P")
    table.putpalette([0, 0, 0, 200, 10, 10, 5, 200, 5, 7, 7, 7])
    table.save(tmp_path / "palette.png")
    Image.fromarray(np.repeat(ids[..., None], 3, axis=2)).save(tmp_path / "rgb.png")
    Image.fromarray(np.dstack([ids, ids, ids, np.full_like(ids, 255)])).save(tmp_path / "rgba.png")
    tifffile.imwrite(tmp_path / "float.tif", ids.astype(np.float64))
    for name in ("palette.png", "rgb.png", "rgba.png", "float.tif"):
        assert read_label_image(tmp_path / name).tolist() == ids.tolist(), name
    Image.fromarray(ids > 0).save(tmp_path / "bits.png")
    assert read_label_image(tmp_path / "bits.png").tolist() == (ids > 0).tolist()


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, suffix, orientation):
    path, stored = tmp_path / f"x.{suffix}", np.zeros((16, 32, 3), np.uint8)
    stored[:8, :8] = 250
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(stored).save(path, exif=exif)
    # Where the upper left corner of what is stored comes to lie (EXIF 2.3, tag Orientation).
    bottom, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    pixels = read_pixels(path)
    assert pixels.shape == ((16, 32, 3) if orientation < 5 else (32, 16, 3))
    corner = pixels[slice(-8, None) if bottom else slice(8), slice(-8, None) if right else slice(8)]
    assert corner.min() > 200 and (pixels > 128).sum() == corner.size


def test_floating_point_colors_are_never_black(tmp_path):
    for scale, values in ((1, (0.0, 0.5, 1.0)), (255, (0.0, 127.6, 255.0))):
        image = np.tile(np.array(values, np.float32), (4, 5, 1))
        tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb")
        assert read_pixels(tmp_path / "x.tif")[0, 0].tolist() == [0, 128, 255], scale
    for value in (np.nan, -0.5, 300.0):
        tifffile.imwrite(tmp_path / "x.tif", np.full((4, 5, 3), value, np.float32), photometric="rgb")
        with pytest.raises(HistomixError, match="no colors from 0 to 1 or to 255"):
            read_pixels(tmp_path / "x.tif")


def test_bad_label_images_say_what_is_wrong(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    with pytest.raises(HistomixError, match="one channel of instance ids"):
        read_label_image(tmp_path / "a.png")
    for value in (0.5, np.nan, np.inf):
        tifffile.imwrite(tmp_path / "b.tif", np.full((3, 3), value, np.float32))
        with pytest.raises(HistomixError, match="whole numbers from 0"):
            read_label_image(tmp_path / "b.tif")
    tifffile.imwrite(tmp_path / "c.tif", np.full((3, 3), -1, np.int32))
    with pytest.raises(HistomixError, match="whole numbers from 0"):
        read_label_image(tmp_path / "c.tif")
    tifffile.imwrite(tmp_path / "d.tif", np.full((3, 3), 2**31, np.uint32))
    with pytest.raises(HistomixError, match="whole numbers from 0"):
        read_label_image(tmp_path / "d.tif")


def test_scale_from_tiff_tags(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", resolution=(40_000, 40_000), resolutionunit="CENTIMETER")
    assert read_mpp(path) == 0.25
    tifffile.imwrite(path, RGB, photometric="rgb", resolution=(50_800, 50_800), resolutionunit="INCH")
    assert read_mpp(path) == 0.5
    tifffile.imwrite(path, RGB, photometric="rgb", resolution=(72, 72), resolutionunit="INCH")
    assert read_mpp(path) is None
    tifffile.imwrite(path, RGB, photometric="rgb", resolution=(40_000, 20_000), resolutionunit="CENTIMETER")
    assert read_mpp(path) is None
    tifffile.imwrite(path, RGB, photometric="rgb", description="Aperio Image Library |AppMag = 40|MPP = 0.2525")
    assert read_mpp(path) == 0.2525


def test_scale_from_ome_and_imagej(tmp_path):
    metadata = {"axes": "YXS", "PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}
    tifffile.imwrite(tmp_path / "x.ome.tif", RGB, photometric="rgb", metadata=metadata)
    assert read_mpp(tmp_path / "x.ome.tif") == 0.25
    assert np.array_equal(read_pixels(tmp_path / "x.ome.tif"), RGB)
    tifffile.imwrite(tmp_path / "y.tif", RGB, imagej=True, resolution=(2, 2), metadata={"unit": "um", "axes": "YXS"})
    assert read_mpp(tmp_path / "y.tif") == 0.5


def test_scale_of_png_only_if_microscopic(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "x.png", dpi=(72, 72))
    assert read_mpp(tmp_path / "x.png") is None
    Image.fromarray(RGB).save(tmp_path / "x.png", dpi=(101_600, 101_600))
    assert read_mpp(tmp_path / "x.png") == 0.25


def retagged(path, tag: int, value: int, place: int = 8):
    """Change a number in the first directory of a TIFF with short offsets, as a damaged or hostile file would."""
    content = bytearray(path.read_bytes())
    order = "little" if content[:2] == b"II" else "big"
    start = int.from_bytes(content[4:8], order)
    for entry in range(start + 2, start + 2 + 12 * int.from_bytes(content[start : start + 2], order), 12):
        if int.from_bytes(content[entry : entry + 2], order) == tag:
            content[entry + 2 : entry + 4] = (4).to_bytes(2, order)
            content[entry + place : entry + place + 4] = value.to_bytes(4, order)
    path.write_bytes(content)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_that_claims_a_billion_pixels_is_refused(tmp_path, compression):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", compression=compression)
    retagged(path, 256, 100_000)
    retagged(path, 257, 100_000)
    retagged(path, 278, 100_000)
    with pytest.raises(HistomixError, match="has 100000×100000 pixels and at most"):
        read_pixels(path)


def test_a_strip_that_inflates_to_more_than_its_pixels_is_refused(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", compression="zlib")
    bomb = zlib.compress(bytes(2**28), 9)
    offset = path.stat().st_size
    with path.open("ab") as stream:
        stream.write(bomb)
    retagged(path, 273, offset)
    retagged(path, 279, len(bomb))
    with pytest.raises(HistomixError, match="more than its share"):
        read_pixels(path)


def test_a_png_of_nothing_but_size_is_refused(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "x.png")
    with pytest.raises(HistomixError, match="cut it into smaller images"):
        read_pixels(tmp_path / "x.png")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "x.png")
    with pytest.raises(HistomixError, match="has 10000×10000 pixels"):
        read_label_image(tmp_path / "x.png")


def test_other_files_are_not_opened_for_a_tiff(tmp_path):
    for name, value in (("a.ome.tif", 1), ("b.ome.tif", 2)):
        tifffile.imwrite(tmp_path / name, np.full((9, 8, 3), value, np.uint8), photometric="rgb", ome=True)
    description = tifffile.tiffcomment(tmp_path / "a.ome.tif")
    named = '<TiffData IFD="0"><UUID FileName="b.ome.tif">urn:uuid:1</UUID></TiffData>'
    tifffile.tiffcomment(tmp_path / "a.ome.tif", re.sub(r"<TiffData.*?(/>|</TiffData>)", named, description).encode())
    assert (read_pixels(tmp_path / "a.ome.tif") == 1).all()


def test_other_formats_under_a_suffix_of_an_image(tmp_path):
    # Pillow would hand PostScript to another program.
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(HistomixError, match="cannot be read as an image"):
        read_pixels(tmp_path / "x.png")


def test_pages_in_a_circle(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.stack([RGB[..., 0]] * 2), photometric="minisblack", metadata=None)
    with tifffile.TiffFile(path) as tiff:
        first, second = (page.offset for page in tiff.pages)
        last = second + 2 + 12 * len(tiff.pages[1].tags)
    content = bytearray(path.read_bytes())
    content[last : last + 4] = first.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(HistomixError, match="more than one image"):
        read_label_image(path)


def test_smaller_pages_of_a_pyramid_do_not_count(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as tiff:
        tiff.write(RGB, photometric="rgb", metadata=None)
        tiff.write(RGB[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
    assert np.array_equal(read_pixels(tmp_path / "x.tif"), RGB)


def test_entities_in_the_metadata_are_not_expanded(tmp_path):
    metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    path = tmp_path / "x.ome.tif"
    tifffile.imwrite(path, RGB, photometric="rgb", metadata=metadata)
    assert read_mpp(path) == 0.25
    text = tifffile.tiffcomment(path)
    entities = '<!DOCTYPE x [<!ENTITY a "0.25">]>'
    tifffile.tiffcomment(path, text.replace("<OME", entities + "<OME", 1).replace('"0.25"', '"&a;"').encode())
    assert read_mpp(path) is None
    assert np.array_equal(read_pixels(path), RGB)


def test_arrays_of_any_shape_and_kind_end_in_a_sentence(tmp_path, monkeypatch):
    for shape in ((12,), (2, 3, 4, 5), (3, 4, 4), (3, 4, 2)):
        array = np.full(shape, 0.5, np.float32)
        monkeypatch.setattr("napari_histomix.datasets.pixels._read_array", lambda *given, array=array, **how: array)
        for read in (read_pixels, read_label_image):
            if shape != (3, 4, 4) or read is read_label_image:
                with pytest.raises(HistomixError):
                    read(tmp_path / "x.tif")


def test_where_a_png_says_how_it_is_turned(tmp_path):
    image, exif = Image.new("RGB", (32, 16)), Image.Exif()
    exif[274] = 6
    image.save(tmp_path / "bare.png")
    image.save(tmp_path / "exif.png", exif=exif)
    words = PngImagePlugin.PngInfo()
    words.add_itxt(
        "XML:com.adobe.xmp",
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>',
    )
    image.save(tmp_path / "xmp.png", pnginfo=words)
    # EXIF data may come after the pixels.
    whole = (tmp_path / "exif.png").read_bytes()
    start = whole.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(whole[start : start + 4], "big")
    (tmp_path / "late.png").write_bytes(whole[:start] + whole[end:-12] + whole[start:end] + whole[-12:])
    assert {path.stem: orientation_of(path) for path in tmp_path.iterdir()} == {
        "bare": 1,
        "exif": 6,
        "xmp": 6,
        "late": 6,
    }
