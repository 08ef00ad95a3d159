"""Search a folder of pictures by a sentence, with the two towers of a CLIP model.

    pip install podium-client numpy
    export PODIUM_ADDRESS=... PODIUM_TOKEN=...               # or `podium up` on this machine
    python examples/image_search.py ~/Pictures "a dog on a beach" --workload clip-vit-b-32

Texts and images of one CLIP workload share a space, so the best picture is the one whose vector has the largest dot
product with that of the sentence. The pictures travel as int8, a quarter of the size, and the ranking hardly notices;
--dtype float32 shows it.

The first run sends the files; to search a large collection again, keep the vectors: `podium submit FOLDER -w
clip-vit-b-32 -o pictures.parquet` writes them with the path of each picture as its key.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from podium_client import Client, Dtype, PodiumError
from podium_client.encodings import DTYPES

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def search(
    client: Client, folder: Path, sentence: str, *, workload: str, dtype: Dtype, best: int
) -> list[tuple[float, Path]]:
    """The `best` pictures of the folder, each with its cosine to the sentence, the best first."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    query = client.embed_texts([sentence], workload=workload).vectors[0]
    pictures = client.embed_images(paths, workload=workload, dtype=dtype, on_error="return")
    for error in pictures.errors:
        print(f"{paths[error.index]}: {error.reason}: {error.message}", file=sys.stderr)
    cosines = np.where(pictures.ok, pictures.to_float32() @ query, -np.inf)
    return [(float(cosines[place]), paths[place]) for place in np.argsort(-cosines)[:best] if pictures.ok[place]]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Search a folder of pictures by a sentence.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("sentence")
    parser.add_argument("--workload", default="clip-vit-b-32", help="of texts and images (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, default="int8", help="of the pictures (default: %(default)s)")
    parser.add_argument("--best", type=int, default=10, help="pictures to show (default: %(default)s)")
    given = parser.parse_args()
    try:
        with Client() as client:
            found = search(
                client, given.folder, given.sentence, workload=given.workload, dtype=given.dtype, best=given.best
            )
    except PodiumError as error:
        sys.exit(f"error: {error}")
    for cosine, path in found:
        print(f"{cosine:.3f}  {path}")


if __name__ == "__main__":
    main()
