"""`vllm bench serve` without vLLM: its own benchmark code, where neither torch nor CUDA is installed.

    python alone.py [the options of `vllm bench serve`]

It runs in an environment that has vLLM's files without what vLLM needs. What the benchmark takes from the rest of vLLM
is replaced: the tokenizer by that of transformers, the parser by argparse's, the logger by logging's, and what only
other data sets or models use by nothing. So it starts faster than the real command; once it runs it is the same code.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import importlib.abc
import importlib.util
import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BENCHMARKS = "vllm.benchmarks"


class Nothing:
    """Stands for what is never used: it can be made, called and asked for anything."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __call__(self, *_: object, **__: object) -> Nothing:
        return Nothing()

    def __getattr__(self, name: str) -> Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing()


class Empty(ModuleType):
    """A module in which every name is a class of nothing."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Nothing,), {})


def _tokenizer(name: str, **_: object) -> Any:
    return importlib.import_module("transformers").AutoTokenizer.from_pretrained(name)


def _freeze() -> None:
    gc.collect()
    gc.freeze()


GIVEN: Mapping[str, Mapping[str, Any]] = {
    "vllm.logger": {"init_logger": logging.getLogger},
    "vllm.tokenizers": {"get_tokenizer": _tokenizer},
    "vllm.utils.argparse_utils": {"FlexibleArgumentParser": argparse.ArgumentParser},
    "vllm.utils.gc_utils": {"freeze_gc_heap": _freeze},
    "vllm.utils.mistral": {"is_mistral_tokenizer": lambda _: False},
}


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds every module of vLLM but those of the benchmark, which are left to Python's own finder."""

    def __init__(self, folders: list[str]) -> None:
        self._folders = folders

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """See importlib."""
        if name.partition(".")[0] != "vllm" or (name + ".").startswith(BENCHMARKS + "."):
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """See importlib."""
        return Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """See importlib."""
        module.__path__ = self._folders if module.__name__ == "vllm" else []
        module.__dict__.update(GIVEN.get(module.__name__, {}))


def main() -> None:
    """Parse vLLM's options, and run its benchmark."""
    found = importlib.util.find_spec("vllm")
    if found is None:
        sys.exit("vllm is not installed here")
    sys.meta_path.insert(0, Finder(list(found.submodule_search_locations or ())))
    serve: Any = importlib.import_module(f"{BENCHMARKS}.serve")
    parser = argparse.ArgumentParser()
    serve.add_cli_args(parser)
    serve.main(parser.parse_args())


if __name__ == "__main__":
    main()
