# SPDX-License-Identifier: Apache-2.0
"""A source of bpf/ on this host: its pinned maps and programs, opened, or made where they are missing."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from wardmesh.datapath import bpfsys, bytecode, loader
from wardmesh.datapath.contract import MapSpec
from wardmesh.datapath.pins import Pins, close_all, create_maps, open_pins
from wardmesh.host.paths import Paths
from wardmesh.model.errors import WardmeshError


class Programs:
    """Descriptors of one generation. maps and programs: by name, empty until ensure_loaded.

    contract: the name of the maps' generation; first: what the first row of a map holds from the beginning.
    """

    def __init__(
        self,
        pins: Pins,
        source: str,
        contract: str,
        specs: Iterable[MapSpec],
        names: tuple[str, ...],
        first: dict[str, bytes],
        python: str,
        paths: Paths,
        cflags: tuple[str, ...] = (),
    ) -> None:
        self.maps: dict[str, int] = {}
        self.programs: dict[str, int] = {}
        self._pins, self._source, self._contract, self._specs = pins, source, contract, tuple(specs)
        self._names, self._first, self._python, self._paths, self._cflags = (
            names,
            first,
            python,
            paths,
            cflags,
        )
        self._build: loader.Build | None = None

    def ensure_loaded(self) -> bool:
        """Open the pinned maps and programs; create what is missing or belongs to other maps: programs from
        what was compiled before for this kernel, else by the compiler.

        Returns whether something was compiled.
        """
        self.close()
        self._pins.prepare()
        self.maps = self._open_maps()
        if self._build is None:
            folder = self._pins.maps(self._contract)
            self._build = loader.plan_build(self._python, folder, self._contract, self._source, self._cflags)
        programs = self._open_programs(self._build) or self._load_kept(self._build)
        compiled = programs is None
        self.programs = self._compile(self._build) if programs is None else programs
        return compiled

    def _open_maps(self) -> dict[str, int]:
        folder = self._pins.maps(self._contract)
        names = [spec.name for spec in self._specs]
        maps = open_pins(folder, names)
        if maps is None:
            self._pins.build(folder, lambda fresh: create_maps(fresh, self._specs, self._first))
            maps = open_pins(folder, names)
        if maps is None:
            raise WardmeshError(
                "the pinned maps cannot be opened", where=str(folder), remedy="root is needed"
            )
        return maps

    def _open_programs(self, build: loader.Build) -> dict[str, int] | None:
        """The pinned programs, unless one is missing or works on other maps than ours."""
        programs = open_pins(self._pins.programs(build.digest), self._names)
        if programs is None:
            return None
        ours = {bpfsys.map_id(fd) for fd in self.maps.values()}
        used = [bpfsys.prog_map_ids(fd) for fd in programs.values()]
        if all(ids and ids <= ours for ids in used):
            return programs
        close_all(programs)
        return None

    def _kept(self, build: loader.Build) -> Path:
        return self._paths.programs / f"{Path(self._source).stem}-{build.digest}.json"

    def _load_kept(self, build: loader.Build) -> dict[str, int] | None:
        """Programs compiled before, pinned; None where there are none, or the kernel refuses them."""
        kept = bytecode.read(self._kept(build))
        if kept is None or set(kept) != set(self._names):
            return None

        def fill(fresh: Path) -> None:
            for name, code in kept.items():
                fd = bytecode.load(name, bytecode.bound(code, self.maps))
                try:
                    bpfsys.obj_pin(fd, fresh / name)
                finally:
                    os.close(fd)

        folder = self._pins.programs(build.digest)
        try:
            self._pins.build(folder, fill)
        except (OSError, KeyError, struct.error):  # damaged after all: the compiler makes it good
            self._kept(build).unlink(missing_ok=True)
            self._pins.prepare()
            return None
        return open_pins(folder, self._names)

    def _keep(self, build: loader.Build, report: str) -> None:
        """For the next boot. Nothing depends on it: where it fails, the compiler runs again."""
        names = {bpfsys.map_id(fd): name for name, fd in self.maps.items()}
        programs = {}
        for name, (instructions, ids) in bytecode.read_report(report).items():
            code = bytecode.unbound(instructions, {fd: names[id_] for fd, id_ in ids.items() if id_ in names})
            if code is None:
                return
            programs[name] = code
        if programs.keys() == set(self._names):
            with suppress(OSError):
                bytecode.write(self._kept(build), programs)

    def _compile(self, build: loader.Build) -> dict[str, int]:
        folder = self._pins.programs(build.digest)

        def fill(fresh: os.PathLike[str]) -> None:
            pins = {name: self._pins.root / fresh / name for name in self._names}
            self._keep(build, loader.compile_and_pin(build, pins, self._python, self._paths))

        self._pins.build(folder, fill)
        programs = open_pins(folder, self._names)
        if programs is None:
            raise WardmeshError("the compiled programs were not pinned", where=str(folder))
        return programs

    @property
    def generation(self) -> tuple[Path, Path]:
        """The folders of the maps and programs in use."""
        digest = self._build.digest if self._build else ""
        return self._pins.maps(self._contract), self._pins.programs(digest)

    def close(self) -> None:
        """Close all descriptors; pins and attached programs stay."""
        close_all(self.maps)
        close_all(self.programs)
        self.maps, self.programs = {}, {}
