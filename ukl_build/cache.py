# SPDX-License-Identifier: Apache-2.0
"""The cache that all builds of a user share: downloads by digest, prepared trees by digest.

A name in it appears by a rename of something whole, so what is there can be used.  What a killed
build left in ``tmp/`` is removed by the next one that holds the lock.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from ukl_build import files, proc

Say = Callable[[str], None]
"""Takes one line for the person at the terminal."""


@dataclass(frozen=True)
class Cache:
    """A cache folder."""

    root: Path

    @classmethod
    def default(cls) -> Cache:
        """Return the user's cache: ``$XDG_CACHE_HOME/ukl-build``, or ``~/.cache/ukl-build``."""
        return cls(platformdirs.user_cache_path("ukl-build"))

    @property
    def trees(self) -> Path:
        """Unpacked and patched source trees, named by the digest of all that went in."""
        return self.root / "trees"

    @property
    def libraries(self) -> Path:
        """C libraries, named by the digest of all that went in."""
        return self.root / "libc"

    @property
    def packages(self) -> Path:
        """Unpacked Debian packages, named by the digest of the .deb."""
        return self.root / "packages"

    @property
    def snapshots(self) -> Path:
        """States of machines, named by the digest of all that makes them what they are."""
        return self.root / "snapshots"

    @property
    def ccache(self) -> Path:
        """Folder of the compiler cache."""
        return self.root / "ccache"

    @property
    def distcc(self) -> Path:
        """Folder of distcc's state and log."""
        return self.root / "distcc"

    def download(self, digest: str, name: str) -> Path:
        """Return where a downloaded file with this SHA-256 is or would be."""
        return self.root / "downloads" / digest / name

    def index(self, name: str) -> Path:
        """Return the file that remembers which digest a package's file has."""
        return self.root / "downloads" / "index" / f"{name}.json"

    @contextmanager
    def locked(self, say: Say) -> Iterator[None]:
        """Hold the cache for this process alone, waiting for another build if need be.

        :raise OSError: if the cache cannot be written.
        :raise UklError: ``stopped`` if the build is told to stop meanwhile.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as file:
            proc.lock(file, lambda: say(f"waiting for another build to let go of {self.root}"))
            # Only a holder of the lock makes anything there, so all of it is of dead builds.
            shutil.rmtree(self._temporary, ignore_errors=True)
            yield

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Make a folder in the cache's file system that is gone afterwards; needs the lock."""
        self._temporary.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(dir=self._temporary))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def admit(self, file: Path, digest: str) -> Path:
        """Move a verified file from a scratch folder in, and return its new place.

        :raise OSError: if the cache cannot be written.
        """
        place = self.download(digest, file.name)
        place.parent.mkdir(parents=True, exist_ok=True)
        with file.open("rb") as content:
            os.fsync(content.fileno())
        file.replace(place)
        files.sync_folder(place.parent)
        return place

    def publish(self, finished: Mapping[Path, Path]) -> None:
        """Rename finished folders of a scratch folder to their names, once they are on the disk.

        :raise OSError: if the cache cannot be written.
        """
        if finished:
            proc.run(["sync", "--file-system", next(iter(finished))])
        for folder, place in finished.items():
            place.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(place)
            files.sync_folder(place.parent)

    def tree(self, digest: str, make: Callable[[Path], Path]) -> Path:
        """Return the tree of a digest, making it first if it is not there; needs the lock.

        :param make: makes the tree in the scratch folder that it gets, and returns it.
        :raise OSError: if the cache cannot be written.
        """
        place = self.trees / digest
        if not place.is_dir():
            with self.scratch() as scratch:
                self.publish({make(scratch): place})
        return place

    def expel(self, file: Path) -> None:
        """Remove a file that turned out to be wrong, and its folder if that is empty then."""
        file.unlink(missing_ok=True)
        with suppress(OSError):
            file.parent.rmdir()

    @property
    def _temporary(self) -> Path:
        return self.root / "tmp"
