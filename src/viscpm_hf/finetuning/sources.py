"""Where rows come from: files, folders and data sets of the Hub, whole or streamed."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.files.hub import is_repo_id
from .archives import Archive
from .rows import BrokenRow

JSON_FILES, PICTURE_FILES = (".json", ".jsonl", ".ndjson"), (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")
_INSTALL = 'pip install "datasets>=4"'


@dataclass
class Source:
    """Rows of one place.

    Args:
        name (`str`): of it, for messages.
        rows: a sequence of dicts; an iterable where they are streamed. What could not be read is a `BrokenRow`.
        folder (`Path`): from which relative paths of pictures start.
    """

    name: str
    rows: Any
    folder: Path


def open_sources(
    places: Any, image_folder: str | Path | None = None, split: str = "train", streaming: bool = False
) -> list[Source]:
    """The sources of one or several places.

    Args:
        places: as `open_source` takes one, or a list of paths; of a folder of JSON or .tar files each is a source.
        image_folder, split, streaming: see `open_source`.

    Raises:
        ValueError, ImportError: see `open_source`.
    """
    several = isinstance(places, (list, tuple)) and places and all(isinstance(p, (str, Path)) for p in places)
    files = [file for place in (places if several else [places]) for file in _files_of(place)]
    return [open_source(file, image_folder, split, streaming) for file in files]


def _files_of(place: Any) -> list:
    """Data files that are a source each: those of a folder that `datasets` need not read, else the place itself."""
    if not isinstance(place, (str, Path)) or not Path(place).is_dir():
        return [place]
    names = sorted(path.name for path in Path(place).iterdir() if not path.name.startswith("."))
    suffixes = {Path(name).suffix.lower() for name in names}
    if "dataset_info.json" in names or "dataset_dict.json" in names or ".parquet" in suffixes:
        return [place]
    tars = [name for name in names if Path(name).suffix.lower() == ".tar"]
    rows = [name for name in names if Path(name).suffix.lower() in JSON_FILES and not name.startswith("metadata.")]
    files = tars or ([] if suffixes & set(PICTURE_FILES) else rows)
    return [Path(place) / name for name in files] or [place]


def open_source(
    place: Any, image_folder: str | Path | None = None, split: str = "train", streaming: bool = False
) -> Source:
    """Opens a place where rows are.

    JSON and archives are read by Python, as rows of one file often differ in their columns, or are broken; everything
    else by `datasets`.

    Args:
        place: a `.json` file (a list of records, or a record a line), `.jsonl`, `.parquet`, `.tar` as webdataset
            makes it; a folder of `.parquet` files, of pictures with a text of the same name each, of pictures with a
            metadata file, or saved by `save_to_disk`; an id on the Hub; or rows: a list of dicts, a
            `datasets.Dataset`.
        image_folder (`str` or `Path`, *optional*): by default the folder of the file, or the folder itself.
        split (`str`, defaults to `"train"`): of a data set that has several.
        streaming (`bool`): whether rows are read when they are wanted.

    Raises:
        ValueError: there is nothing, or it cannot be read.
        ImportError: `datasets` is needed and not there.
    """
    if not isinstance(place, (str, Path)):
        name = f"a {type(place).__name__}"
        rows = _of_split(place, split, name) if isinstance(place, dict) else place
        rows = _undecoded(rows) if hasattr(rows, "cast_column") else rows
        return Source(name, rows, Path(image_folder or "."))
    path = Path(place)
    folder = Path(image_folder) if image_folder else (path if path.is_dir() else path.parent)
    if not path.exists():
        if isinstance(place, str) and is_repo_id(place) and path.suffix not in (*JSON_FILES, ".parquet", ".tar"):
            return Source(place, _loaded(place, place, split, streaming), Path(image_folder or "."))
        raise ValueError(f"There is no {str(place)!r}: expected a file, a folder, or owner/name of a data set.")
    if path.suffix.lower() in JSON_FILES:
        return Source(str(place), _Lines(path) if streaming else read_json_rows(path), folder)
    if path.suffix.lower() == ".tar" and path.is_file():
        return Source(str(place), Archive(path), folder)
    if path.is_file():
        kinds = {".parquet": "parquet", ".arrow": "arrow", ".csv": "csv"}
        kind = kinds.get(path.suffix.lower())
        if kind is None:
            raise ValueError(f"{str(place)!r} is no data file: expected .json, .jsonl, .parquet, .tar or a folder.")
        return Source(str(place), _loaded(place, kind, split, streaming, data_files=str(path)), folder)
    return Source(str(place), _of_folder(path, split, streaming), folder)


def read_json_rows(path: Path) -> list:
    """The records of a JSON file, or of one with a record a line; lines that are none become `BrokenRow`s.

    Raises:
        ValueError: the file cannot be read, or holds something else.
    """
    try:
        # a byte that is no UTF-8 is a fault of the row that it is in, see `rows`
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    if path.suffix.lower() == ".json":
        try:
            rows = json.loads(text)
        except (ValueError, RecursionError) as error:
            rows = list(_parsed_lines(text.split("\n")))
            if not any(isinstance(row, dict) for row in rows):
                raise _unreadable(path, error) from error
        if not isinstance(rows, list):
            raise ValueError(f"{str(path)!r} holds a {type(rows).__name__}, wanted a list of records.")
    else:
        rows = list(_parsed_lines(text.split("\n")))
    if not rows:
        raise ValueError(f"{str(path)!r} holds no record.")
    return rows


def _unreadable(path, error):
    return ValueError(f"{str(path)!r} cannot be read as a JSON file ({error}), wanted a list of records.")


def _parsed_lines(lines: Iterable[str]) -> Iterator[Any]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BrokenRow("a line that is not JSON", f"line {number}: {error}"[:200])


class _Lines:
    """The records of a JSON file, read anew whenever they are gone through; a list is read whole."""

    def __init__(self, path: Path):
        self.path = path

    def __iter__(self) -> Iterator[Any]:
        if self.path.suffix.lower() == ".json":
            yield from read_json_rows(self.path)
            return
        try:
            with open(self.path, encoding="utf-8-sig", errors="surrogateescape") as lines:
                yield from _parsed_lines(lines)
        except OSError as error:
            raise _unreadable(self.path, error) from error


def _of_folder(path: Path, split: str, streaming: bool) -> Any:
    names = sorted(file.name for file in path.iterdir() if not file.name.startswith("."))
    suffixes = {Path(name).suffix.lower() for name in names}
    if "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= set(names):
        datasets = _datasets(str(path))
        try:
            saved = datasets.load_from_disk(str(path))
        except Exception as error:
            raise _not_loaded(path, error) from error
        saved = _of_split(saved, split, path) if isinstance(saved, dict) else saved
        return _undecoded(saved.to_iterable_dataset() if streaming else saved)
    if ".parquet" in suffixes:
        return _loaded(path, "parquet", split, streaming, data_files=[str(f) for f in sorted(path.glob("*.parquet"))])
    pairs = list(_pairs(path, names))
    if any(isinstance(row, dict) or row.reason != _ALONE for row in pairs):
        return pairs
    return _loaded(path, str(path), split, streaming)


_ALONE = "a picture without a text"


def _pairs(path: Path, names: list[str]) -> Iterator[dict]:
    """Pictures with a text of the same name each, as webdataset unpacks to; broken rows of those that have none."""
    there = set(names)
    for name in names:
        if Path(name).suffix.lower() not in PICTURE_FILES:
            continue
        stem = Path(name).stem
        if f"{stem}.txt" in there:
            try:
                text = (path / f"{stem}.txt").read_text(encoding="utf-8-sig")
            except (OSError, ValueError) as error:
                yield BrokenRow("a text file that cannot be read", f"{stem}.txt: {error}"[:200], name)
                continue
            yield {"image": name, "text": text}
        elif f"{stem}.json" in there:
            try:
                row = json.loads((path / f"{stem}.json").read_text(encoding="utf-8-sig"))
                yield {"image": name, **{key: value for key, value in row.items() if key != "image"}}
            except (OSError, ValueError, AttributeError, RecursionError) as error:
                yield BrokenRow("a text file that cannot be read", f"{stem}.json: {error}"[:200], name)
        else:
            yield BrokenRow(_ALONE, f"there is no {stem}.txt or {stem}.json beside {name}", name)


def _loaded(place: Any, kind: str, split: str, streaming: bool, **options: Any) -> Any:
    datasets = _datasets(str(place))
    try:
        loaded = datasets.load_dataset(kind, streaming=streaming, **options)
    except Exception as error:  # of files, networks and schemas, of any class
        raise _not_loaded(place, error) from error
    return _undecoded(_of_split(loaded, split, place))


def _of_split(loaded: dict, split: str, place: Any) -> Any:
    if split not in loaded:
        raise ValueError(f"{str(place)!r} has the splits {', '.join(loaded)}, but no {split!r}: choose one of them.")
    return loaded[split]


def _not_loaded(place: Any, error: Exception) -> ValueError:
    if type(error).__name__ == "DatasetGenerationError":  # which says nothing itself
        error = error.__cause__ or error
    text = " ".join(str(error).split())[:300].rstrip(".")
    return ValueError(f"{str(place)!r} cannot be read as a data set ({type(error).__name__}: {text}).")


def _datasets(place: str):
    try:
        import datasets

        datasets.load_dataset  # noqa: B018  a folder of that name is no library
    except (ImportError, AttributeError) as error:
        raise ImportError(f"To read {place} the library datasets is needed: {_INSTALL}") from error
    return datasets


def _undecoded(rows: Any) -> Any:
    """With pictures as bytes or paths, so that a broken one is found where it can be left out."""
    import datasets

    def plain(feature):
        if isinstance(feature, datasets.Image):
            return datasets.Image(decode=False)
        if isinstance(feature, datasets.List):
            return datasets.List(plain(feature.feature))
        if isinstance(feature, dict):
            return {name: plain(part) for name, part in feature.items()}
        return feature

    if isinstance(rows, datasets.IterableDataset):
        return rows.decode(False)
    for name, feature in rows.features.items():
        if plain(feature) != feature:
            rows = rows.cast_column(name, plain(feature))
    return rows
