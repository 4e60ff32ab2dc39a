"""Scenes as OpenRaster files, a layer each, which GIMP, Krita and MyPaint open.

The format is a zip: `mimetype` first and uncompressed, `stack.xml`, PNG files (openraster.org, version 0.0.3).
"""

import io
import os
import zipfile
from collections.abc import Mapping
from xml.etree import ElementTree

import numpy as np
import PIL.Image

from layered_plugin.files import atomic_write
from layered_plugin.model.scenes import Scene

VERSION = "0.0.3"
THUMBNAIL = 256  # Largest side, by the specification.


def scene_layers(scene: Scene) -> dict[str, np.ndarray]:
    """Layers of a scene of ``to_pictures`` from back to front, by name: the background, then each object's cut-out."""
    objects = [name for name in scene if name.startswith("cutouts")]
    return {"background": scene["backgrounds"]} | {
        f"object {number}" if len(objects) > 1 else "object": scene[name]
        for number, name in enumerate(objects, start=1)}


def write_open_raster(path: str | os.PathLike[str], layers: Mapping[str, np.ndarray]) -> None:
    """Write layers of one size as an `.ora` file, whole or not at all.

    They are pictures by name, from back to front; [H, W, 3] or, with straight alpha, [H, W, 4], uint8.
    """
    pictures = {name: PIL.Image.fromarray(picture).convert("RGBA") for name, picture in layers.items()}
    width, height = next(iter(pictures.values())).size
    merged = PIL.Image.new("RGBA", (width, height))
    for picture in pictures.values():
        merged = PIL.Image.alpha_composite(merged, picture)
    image = ElementTree.Element("image", version=VERSION, w=str(width), h=str(height))
    stack = ElementTree.SubElement(image, "stack")
    files = {f"data/layer{number}.png": picture for number, picture in enumerate(pictures.values())}
    for name, file in reversed(list(zip(pictures, files, strict=True))):  # The first in the file lies on top.
        ElementTree.SubElement(stack, "layer", {
            "name": name, "src": file, "x": "0", "y": "0", "opacity": "1.0", "visibility": "visible",
            "composite-op": "svg:src-over"})
    thumbnail = merged.copy()
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
    with atomic_write(path) as file_out, zipfile.ZipFile(file_out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("mimetype"), "image/openraster", zipfile.ZIP_STORED)
        archive.writestr("stack.xml", ElementTree.tostring(image, encoding="UTF-8", xml_declaration=True))
        pngs = {**files, "mergedimage.png": merged, "Thumbnails/thumbnail.png": thumbnail}
        for name, picture in pngs.items():
            data = io.BytesIO()
            picture.save(data, "PNG")
            archive.writestr(name, data.getvalue())
