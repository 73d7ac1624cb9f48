"""From what the user names to scans: files, folders, archives and lists, each scan with a name.

Nothing that is wrong with one path stops the others.
"""

import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hemaseg.dicom.identity import identifies, without_words
from hemaseg.errors import ConfigError, ScanError
from hemaseg.files import file_sha256, natural
from hemaseg.intake.names import path_parts, unique_names
from hemaseg.intake.scan_lists import Wish, read_scan_list
from hemaseg.scans.folders import files_below
from hemaseg.scans.images import read_scan, stem
from hemaseg.scans.modality import guess_modality
from hemaseg.scans.nifti import is_nifti
from hemaseg.scans.pictures import is_picture, read_stack
from hemaseg.scans.plausibility import screen_scan
from hemaseg.scans.scan import Scan
from hemaseg.scans.screening import Finding, ReadOptions, Screen, reading

if TYPE_CHECKING:
    from hemaseg.dicom.reading import Series

_IS_MASK_NAME = re.compile(".*[-_. ](mask|seg|dseg|label|roi|probseg|probability)", re.IGNORECASE)
_NO_DICOM = (".csv", ".json", ".txt", ".tsv", ".md")
_NUMBERED = re.compile("(.*?)[-_. ]*[0-9]{1,9}")


@dataclass(frozen=True, eq=False)
class Source:
    """One scan that the user named, not read yet.

    Attributes:
        name: Unique among the sources of one call, safe as the name of a file, and free of what
            identifies a patient unless that was asked for.
        shown: The path as messages and tables may show it: where it would identify a patient, the
            name.
        path: The file, folder or archive.
        files: What is read, in order: one file, the pictures of a stack, or those of a series.
        modality: `CT` or `MRI` if a list says it; empty otherwise.
        series: The series of a DICOM source; None for other formats.
        findings: Of the search.
        identity: Words that identify the patient, which no message may show.
        problem: Why there is nothing to read; None if there seems to be something.
        is_renamed: Whether its name would have identified the patient.
    """

    name: str
    shown: str
    path: Path
    files: tuple[Path, ...] = ()
    modality: str = ""
    series: "Series | None" = None
    findings: tuple[Finding, ...] = ()
    identity: tuple[str, ...] = field(default=(), repr=False)
    problem: ScanError | None = None
    is_renamed: bool = False

    def sha256(self) -> str:
        """Hash of the bytes of all files, in order, and of which series is taken from them.

        Raises:
            ScanError: A file cannot be read.
        """
        digest = hashlib.sha256(self.series.uid.encode() if self.series else b"")
        try:
            for file in self.files:
                digest.update(file_sha256(file).encode())
        except OSError as error:
            raise Screen(self.shown).error(
                "unreadable",
                f"cannot be read ({error.strerror}), expected the files that were found. Copy or "
                "export them again.",
            ) from None
        return digest.hexdigest()

    def anonymous(self, text: str) -> str:
        """A message about this scan without the words that identify its patient."""
        if self.shown == self.name:
            text = text.replace(str(self.path), self.name)
        return without_words(text, self.identity)


@dataclass(frozen=True)
class Sources:
    """What was found.

    Attributes:
        sources: Scans, in natural order of each path.
        failed: What was named and cannot be a scan, each with its problem.
        left_out: Files of folders whose names say that they are masks.
    """

    sources: tuple[Source, ...]
    failed: tuple[Source, ...] = ()
    left_out: tuple[Path, ...] = ()

    @property
    def failures(self) -> tuple[ScanError, ...]:
        """The problems of those that failed."""
        return tuple(source.problem for source in self.failed if source.problem is not None)


@dataclass(frozen=True)
class _Found:
    """A source without name, and what its name is made of: folders and name, the last one first.

    Below a folder that identifies a patient, any name is taken to, but that which a list gives.
    """

    source: Source
    parts: tuple[str, ...]
    is_listed: bool = False


def find_sources(
    paths: Iterable[Path],
    options: ReadOptions,
    *,
    series: str | None = None,
    keep_identity: bool = False,
    leave_out: Path | None = None,
) -> Sources:
    """Find the scans that paths stand for; nothing but headers of DICOM files is read.

    A path is a NIfTI file, a picture (a TIFF can have several pages), a DICOM file or a zip of
    them, a folder of any of these, or a CSV list (see `scan_lists`). In a
    folder, pictures with numbered names are a stack for each folder and beginning of the name, each
    DICOM study is a scan, and files whose names say that they are masks are left out.

    A name is that of the file or folder, with as many of the folders above it as make it unique. A
    DICOM scan whose path, or name in a list, holds a word that identifies its patient is named
    `series-` and 8 digits of the hash of its SeriesInstanceUID.

    Args:
        paths: What the user named. Of scans that are named twice, the first counts.
        options: How files are read.
        series: Which series of each study: number in the list of them, SeriesInstanceUID, or
            "suggested"; None if there is but one. A CSV list can say it for each scan.
        keep_identity: Whether names and messages may identify patients.
        leave_out: A folder that is not searched, because results go there.

    Raises:
        ConfigError: `leave_out` is, or holds, a folder that is to be searched.
    """
    found: list[_Found] = []
    left_out: list[Path] = []
    # Path.resolve raises RuntimeError at a link to itself, before Python 3.13.
    leave_out = leave_out and Path(os.path.realpath(leave_out))
    for wish in _wishes(paths, options, series):
        if isinstance(wish, _Found):
            found.append(wish)
            continue
        try:
            here = list(_at(wish, options, leave_out, left_out))
        except ScanError as error:
            here = [_failed(wish.path, error)]
        found += [
            _Found(
                replace(_with_readable_names(item.source), modality=wish.modality),
                (wish.name, *item.parts) if wish.name else item.parts,
                is_listed=bool(wish.name),
            )
            for item in here
        ]
    unique = {_key(item.source): item for item in reversed(found)}
    kept = [item for item in found if unique[_key(item.source)] is item]
    named = _named(kept, keep_identity=keep_identity)
    return Sources(
        tuple(source for source in named if source.problem is None),
        tuple(source for source in named if source.problem is not None),
        tuple(left_out),
    )


def read_source(source: Source, options: ReadOptions, *, network_modality: str = "") -> Scan:
    """Read a scan and screen it for segmentation.

    Args:
        source: As `find_sources` gives it.
        options: How it is read.
        network_modality: `CT` or `MRI` if the scan is for a network that was trained on it; empty
            if that is unknown, or the scan is for none.

    Returns:
        The scan. Its modality is that of the file, else the declared one, else what its values say
        (see `guess_modality`; not asked of pictures), else the network's.

    Raises:
        ScanError: It cannot be read, or is refused; the message does not identify a patient.
    """
    if source.problem is not None:
        raise source.problem
    options = replace(options, modality=source.modality or options.modality)
    screen = Screen(source.shown, options)
    try:
        scan = _read(source, options)
        modality = _modality(scan, screen, network_modality)
        scan = screen_scan(replace(scan, modality=modality), screen)
    except ScanError as error:
        raise ScanError(source.anonymous(str(error)), kind=error.kind) from None
    findings = dict.fromkeys((*source.findings, *scan.findings))
    return replace(scan, path=Path(source.shown), findings=tuple(findings))


def _read(source: Source, options: ReadOptions) -> Scan:
    if source.series is not None:
        from hemaseg.dicom.reading import read_series

        return read_series(source.series, options)
    if len(source.files) > 1:
        return read_stack(source.files, options)
    return read_scan(source.path, options)


def _modality(scan: Scan, screen: Screen, network: str) -> str:
    """Modality of a scan for a network; empty if nobody knows."""
    own, declared = scan.modality, screen.options.modality
    if own and declared and own != declared:
        screen.refuse(
            "wrong-modality",
            f"{own} by its header, expected {declared} as declared. Leave the declaration out.",
        )
    known, advice = own or declared, ""
    if not known and scan.affine is not None:
        known, reason = guess_modality(scan.voxels)
        if known:
            screen.report("modality-guessed", f"taken for {known} by its values: {reason}")
            advice = f", or say --modality {network} if it is one"
    if not known and network:
        screen.report("modality-assumed", f"taken for {network}, which the network was trained on")
    if known and network and known != network:
        screen.refuse(
            "wrong-modality",
            f"{known}{' by its values' if advice else ''}, expected {network}, which the network "
            f"was trained on. Take a network for {known}{advice}.",
        )
    return known or network


def _wishes(
    paths: Iterable[Path], options: ReadOptions, series: str | None
) -> Iterator["Wish | _Found"]:
    """The paths, with those in lists in place of the lists."""
    for path in paths:
        if path.suffix.lower() != ".csv":
            yield Wish(path, series=series)
            continue
        try:
            for wish in read_scan_list(path, options):
                yield replace(wish, series=wish.series or series)
        except ScanError as error:
            yield _failed(path, error)


def _at(
    wish: Wish, options: ReadOptions, leave_out: Path | None, left_out: list[Path]
) -> Iterator[_Found]:
    """The scans at a path.

    Raises:
        ScanError: There is none, or the path cannot be read.
    """
    path, screen = wish.path, Screen(str(wish.path), options)
    if not path.is_dir():
        with reading(path, screen):
            is_image = is_nifti(path) or is_picture(path)
        yield from [_file(path)] if is_image else _studies(path, wish, options, leave_out)
        return
    if leave_out and path.resolve().is_relative_to(leave_out):
        raise ConfigError(
            f"{leave_out}: holds {path}, which is searched for scans; results there would be taken "
            "for scans the next time. Choose another output folder."
        )
    files = [file for file in files_below(path, screen) if not _is_below([file], leave_out)]
    images = [file for file in files if is_nifti(file) or is_picture(file)]
    masks = {file for file in images if _IS_MASK_NAME.fullmatch(stem(file))}
    left_out += sorted(masks)
    found = [_file(file) for file in images if is_nifti(file) and file not in masks]
    found += _stacks([file for file in images if is_picture(file) and file not in masks])
    archives = [file for file in files if file.suffix.lower() == ".zip"]
    if any(file.suffix.lower() not in _NO_DICOM for file in {*files} - {*images, *archives}):
        try:
            found += _studies(path, wish, options, leave_out)
        except ScanError as error:
            if error.kind not in ("empty-folder", "not-an-image", "not-pixels"):
                raise
    for archive in archives:
        try:
            found += _studies(archive, wish, options, leave_out)
        except ScanError as error:
            found.append(_failed(archive, error))
    if not found:
        named = f", of which {len(masks)} are named as masks" if masks else ""
        raise screen.error(
            "empty-folder",
            f"no scan among {len(files)} files{named}, expected NIfTI, DICOM, PNG, JPEG or TIFF "
            "files. Give the folder that holds them.",
        )
    yield from sorted(
        found, key=lambda item: natural(str([*item.source.files, item.source.path][0]))
    )


def _with_readable_names(source: Source) -> Source:
    """The source, or its problem where a name is not UTF-8: no record or table could hold it."""
    try:
        "".join(map(str, (source.path, *source.files))).encode()
    except UnicodeEncodeError:
        shown = str(source.path).encode("utf-8", "replace").decode()
        error = Screen(shown).error("name-not-utf8", "not UTF-8. Rename this file or folder.")
        return replace(source, shown=shown, problem=error)
    return source


def _file(path: Path) -> _Found:
    return _Found(Source("", str(path), path, (path,)), path_parts(path))


def _failed(path: Path, error: ScanError) -> _Found:
    return _Found(Source("", str(path), path, problem=error), path_parts(path))


def _stacks(pictures: list[Path]) -> list[_Found]:
    """Pictures as stacks: numbered ones by folder and beginning of the name, others one by one."""
    stacks: defaultdict[tuple[Path, str], list[Path]] = defaultdict(list)
    for file in pictures:
        match = _NUMBERED.fullmatch(file.stem)
        stacks[file.parent, match[1] if match else file.stem].append(file)
    stacks_of = Counter(folder for folder, _ in stacks)
    found = []
    for (folder, beginning), files in stacks.items():
        if len(files) == 1:
            found.append(_file(files[0]))
            continue
        parts = path_parts(folder)
        if beginning and stacks_of[folder] > 1:
            parts = (beginning, *parts)
        ordered = tuple(sorted(files, key=lambda file: natural(file.name)))
        found.append(_Found(Source("", str(folder), folder, ordered), parts))
    return found


def _studies(
    path: Path, wish: Wish, options: ReadOptions, leave_out: Path | None
) -> Iterator[_Found]:
    """The wanted series of each study in a DICOM file, folder or archive.

    Raises:
        ScanError: There is no series.
    """
    from hemaseg.dicom.reading import choose_series, find_series

    listing = find_series(path, options)
    series = [one for one in listing.series if not _is_below(one.files, leave_out)]
    has_one_study = len({one.study_uid for one in series}) == 1
    if named := [one for one in series if one.uid == wish.series]:
        series = named
    studies: defaultdict[str, list[Series]] = defaultdict(list)
    for one in series:
        studies[one.study_uid].append(one)
    for study in studies.values():
        identity = tuple({word for one in study for word in one.identity})
        source = Source("", str(path), path, identity=identity)
        try:
            chosen = choose_series(replace(listing, series=tuple(study)), wish.series)
        except ScanError as error:
            source = replace(source, problem=error, series=study[0])
        else:
            source = replace(source, series=chosen, files=chosen.files)
        whole = path if has_one_study else Path(os.path.commonpath(study[0].files))
        yield _Found(source, path_parts(whole))


def _is_below(files: Iterable[Path], folder: Path | None) -> bool:
    """Whether all files lie in a folder, which is resolved; not if there is none."""
    return folder is not None and all(file.resolve().is_relative_to(folder) for file in files)


def _key(source: Source) -> tuple[object, ...]:
    """What two sources share that are the same scan, or the same problem."""
    files = [file.resolve() for file in source.files]
    return (*files, source.series and source.series.uid, str(source.problem))


def _named(found: list[_Found], *, keep_identity: bool) -> list[Source]:
    """The sources with their names, and without what identifies patients."""
    parts = [item.parts for item in found]
    if not keep_identity:
        for index, name in enumerate(unique_names(parts)):
            source = found[index].source
            text = name if found[index].is_listed else f"{name} {source.shown}"
            if source.series and identifies(text, source.identity):
                digits = hashlib.sha256(source.series.uid.encode()).hexdigest()[:8]
                parts[index] = (f"series-{digits}",)
    sources = []
    for name, own, item in zip(unique_names(parts), parts, found, strict=True):
        source = replace(item.source, name=name, is_renamed=own != item.parts)
        if keep_identity:
            source = replace(source, identity=())
        elif source.series and identifies(source.shown, source.identity):
            source = replace(source, shown=name)
        if source.problem is not None:
            text = source.anonymous(str(source.problem))
            source = replace(source, problem=ScanError(text, kind=source.problem.kind))
        sources.append(source)
    return sources
