"""The folder of results, on a disk or in object storage; nothing in it is ever half a file.

results/JOB.json      settings, scores, pictures, host, seconds: a job is finished when this exists
pictures/JOB_0.png    written before it
failed/JOB.json       why a job was given up
claims/, drivers/     who works on what (claims.py)
parts/                files that are being written
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable
from typing import Any

import fsspec

from .errors import SweepError

FOLDERS = ("results", "pictures", "failed", "claims", "drivers", "parts")


class Store:
    """Whole files under one folder: a path, or a URL of fsspec such as s3://bucket/folder."""

    def __init__(self, folder: str):
        try:
            self.fs, root = fsspec.core.url_to_fs(folder)
        except (ImportError, ValueError) as error:
            raise SweepError(f"{folder} can't be opened: {error}") from None
        self.folder, self.root = folder, root.rstrip("/")
        self.on_disk = "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))
        self.writer = f"{place()}~{os.getpid()}~{os.urandom(4).hex()}"

    def prepare(self) -> None:
        """Makes the folders. Raises SweepError where they can't be made."""
        try:
            for folder in FOLDERS:
                self.fs.makedirs(self.path(folder), exist_ok=True)
        except OSError as error:
            raise SweepError(f"no results can be written to {self.folder}: {error}") from None

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def names(self, folder: str) -> set[str]:
        """File names in a folder, as they are now."""
        self.fs.invalidate_cache(self.path(folder))
        try:
            return {str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in self.fs.ls(self.path(folder), detail=False)}
        except FileNotFoundError:
            return set()

    def jobs(self, folder: str) -> set[str]:
        """Names of the jobs that have a file in `results` or `failed`."""
        return {name.removesuffix(".json") for name in self.names(folder) if name.endswith(".json")}

    def exists(self, name: str) -> bool:
        self.fs.invalidate_cache(self.path(name.rsplit("/", 1)[0]))
        return self.fs.exists(self.path(name))

    def read(self, name: str) -> bytes | None:
        """A file's content; None where there is none."""
        try:
            return self.fs.cat_file(self.path(name))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """The whole file or nothing, instead of what was there. An upload is whole by itself."""
        if not self.on_disk:
            return self.fs.pipe_file(self.path(name), content)
        temporary = self._temporary(content, lasting=True)
        try:
            os.replace(temporary, self.path(name))
        except OSError:
            os.unlink(temporary)
            raise

    def create(self, name: str, content: bytes) -> bool:
        """A whole file where nothing was; False, and nothing done, where something is. A power cut may undo it."""
        if not self.on_disk:
            try:
                self.fs.pipe_file(self.path(name), content, mode="create")
            except FileExistsError:
                return False
            return True
        temporary = self._temporary(content, lasting=False)
        try:
            os.link(temporary, self.path(name))
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def _temporary(self, content: bytes, lasting: bool) -> str:
        path = self.path(f"parts/{self.writer}~{os.urandom(4).hex()}")
        try:
            with open(path, "xb") as file:
                file.write(content)
                file.flush()
                if lasting:
                    os.fsync(file.fileno())
        except OSError:
            if os.path.exists(path):
                os.unlink(path)
            raise
        return path

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def written(self, name: str) -> float | None:
        """When, in seconds of the storage's own clock; None where there is no such file."""
        try:
            self.fs.invalidate_cache(self.path(name.rsplit("/", 1)[0]))
            return self.fs.modified(self.path(name)).timestamp()
        except FileNotFoundError:
            return None

    def records(self, names: Iterable[str], folder: str = "results") -> dict[str, dict[str, Any]]:
        """What was written of jobs, by name; those without a file are left out."""
        files = {name: f"{folder}/{name}.json" for name in names}
        if self.on_disk or not files:
            found = {name: self.read(file) for name, file in files.items()}
        else:  # many at a time
            contents = self.fs.cat([self.path(file) for file in files.values()], on_error="omit")
            found = {name: contents.get(self.path(file)) for name, file in files.items()}
        return {name: json.loads(content) for name, content in found.items() if content is not None}


def place() -> str:
    """This machine, and on Linux its set of process numbers: two containers may have the same name."""
    try:
        processes = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        processes = ""
    return f"{socket.gethostname().replace('~', '-').replace('/', '-')}-{processes}"
