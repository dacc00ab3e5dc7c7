"""From a text to its vector without torch: the exported graph on OpenVINO, and `tokenizers`.

The same class answers queries in a serving process (ready in about half a CPU-second) and embeds in
bulk during a refresh, so both ends of a search come from one graph.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from headwater.errors import MissingExtraError, ModelError
from headwater.retrieval.normalisation import normalise
from headwater.retrieval.tokens import Tokenizer

Vectors = npt.NDArray[np.float32]


_IMPORT: Final = threading.Lock()
_RUN_TOKENS: Final = 2048
"""Of one run: short texts gain up to 1.7 times, and larger runs gain nothing more."""
_PROBE_LENGTHS: Final = (5, 24, 96)
_PROBE_ROWS: Final = 6


class TextEncoder(Protocol):
    """What a search needs of a model."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One vector per text, float32 (len(texts), dim), L2-normalised."""
        ...


class QueryEncoder:
    """Runs an exported embedding graph.

    Nothing is ever padded: padding changes the last digits in bf16 (cosine 0.99999), and a vector
    that depends on its neighbours cannot be named by its content. Every text is a run of its own,
    or, given `probes`, texts of equal length are run together, once the graph has shown on this
    machine that this changes no bit. Calls from several threads are safe, and so is a fork: the
    child compiles the graph anew at its first call.

    Args:
        xml: the graph, an OpenVINO IR as a path (any extension) or its bytes.
        weights: its weights; a path is mapped, not read.
        tokenizer: `tokenizer.json`, a path or its bytes.
        max_tokens: of a text, special tokens not counted; longer texts are cut there.
        prompt: put before every text, as some models ask for.
        threads: for inference; None takes one per core.
        streams: texts in flight at once: 1 answers a query fastest, one per thread embeds most.
        precision: `bf16` or `f32`; None takes bf16 where the processor has it.
        probes: texts, of a few hundred tokens together, to try runs of several texts on; without
            any, every text is a run of its own.

    Raises:
        ModelError: the tokenizer cannot be read.
    """

    def __init__(
        self,
        xml: Path | bytes,
        weights: Path | bytes,
        tokenizer: Path | bytes,
        *,
        max_tokens: int,
        prompt: str = "",
        threads: int | None = None,
        streams: int = 1,
        precision: str | None = None,
        probes: Sequence[str] = (),
    ) -> None:
        self._xml = xml
        self._weights = weights
        self._tokenizer = Tokenizer(tokenizer, truncate_at=max_tokens)
        self._prompt = prompt
        self._threads = threads
        self._streams = streams
        self._precision = precision
        self._probes = probes
        self._state: _Compiled | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()

    @property
    def precision(self) -> str:
        """What the graph runs in, `bf16` or `f32`; compiles it if that has not happened yet."""
        return self._compiled().precision

    @property
    def batched(self) -> bool:
        """Whether texts of equal length are run together."""
        return self._compiled().batched

    @property
    def dim(self) -> int:
        """The length of a vector."""
        return self._compiled().dim

    def encode(self, texts: Sequence[str]) -> Vectors:
        """One vector per text.

        Returns:
            float32 (len(texts), dim), L2-normalised, in the order of `texts`.

        Raises:
            ModelError: the graph cannot be compiled.
            MissingExtraError: OpenVINO is not installed.
        """
        compiled = self._compiled()
        out = np.empty((len(texts), compiled.dim), dtype=np.float32)
        if not texts:
            return out
        rows = self._tokenizer.encode([self._prompt + normalise(text) for text in texts])

        runs = of_equal_length(rows, tokens=_RUN_TOKENS if compiled.batched else 0)

        def run(places: list[int]) -> None:
            out[places] = compiled.infer(np.array([rows[i] for i in places], dtype=np.int64))

        if self._streams > 1 and len(runs) > 1:
            with ThreadPoolExecutor(self._streams) as pool:
                list(pool.map(run, runs))
        else:
            for places in runs:
                run(places)
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        out /= np.where(norms > 0, norms, 1)
        return out

    def _compiled(self) -> _Compiled:
        if self._pid != os.getpid():
            # The threads behind the parent's graph did not survive the fork, and its locks may be
            # held for ever. Its objects are kept: to destroy them would wait for those threads.
            self._lock = threading.Lock()
            self._inherited = self._state
            self._state = None
            self._pid = os.getpid()
        state = self._state
        if state is None:
            with self._lock:
                state = self._state
                if state is None:
                    state = self._state = self._compile()
        return state

    def _compile(self) -> _Compiled:
        openvino = import_openvino()
        try:
            core = openvino.Core()
            if isinstance(self._xml, Path) and isinstance(self._weights, Path):
                model = core.read_model(str(self._xml), str(self._weights))
            else:
                model = core.read_model(_bytes(self._xml), _bytes(self._weights))
            precision = self._precision or _best_precision(core)
            options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision}
            if self._streams > 1:
                options |= {"NUM_STREAMS": self._streams}
            else:
                options |= {"PERFORMANCE_HINT": "LATENCY"}
            if self._threads is not None:
                options |= {"INFERENCE_NUM_THREADS": self._threads}
            graph = core.compile_model(model, "CPU", options)
            ids = self._tokenizer.encode(list(self._probes)) if self._probes else []
            return _Compiled(graph, precision, [token for row in ids for token in row])
        except (RuntimeError, OSError) as error:
            name = str(self._xml) if isinstance(self._xml, Path) else "encoder.xml"
            raise ModelError(
                "The exported model cannot be loaded",
                obj=name,
                todo=f"{str(error).strip().splitlines()[-1]}; check the store, or export it again",
            ) from None


def of_equal_length(rows: Sequence[Sequence[int]], *, tokens: int) -> list[list[int]]:
    """Positions of rows in runs of equal length.

    Args:
        rows: token ids of texts.
        tokens: of a run at most, unless a single row has more.
    """
    by_length: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(index)
    runs = []
    for length, places in by_length.items():
        size = max(1, tokens // max(1, length))
        runs += [places[first : first + size] for first in range(0, len(places), size)]
    return runs


class _Compiled:
    """A compiled graph and its idle infer requests: one request serves one call at a time.

    Attributes:
        precision: `bf16` or `f32`.
        dim: of a vector.
        batched: whether a run of several texts gave each the very vector that it gets alone.
    """

    def __init__(self, graph: Any, precision: str, probe: Sequence[int]) -> None:
        self._graph = graph
        self.precision = precision
        self.dim = int(graph.output(0).get_partial_shape()[1].get_length())
        names = [port.get_any_name() for port in graph.inputs]
        self._names = frozenset(names)
        self._idle: list[Any] = []
        self._idle_lock = threading.Lock()
        # OpenVINO's binding initialises static variables in its first inference and lets go of the
        # interpreter's lock meanwhile: two threads that infer for the first time can wait for each
        # other for ever. So the first inference of every graph is made alone.
        with _IMPORT:
            self.infer(np.zeros((1, 1), dtype=np.int64))
        self.batched = bool(probe) and all(
            self._same_together(probe, length) for length in _PROBE_LENGTHS
        )

    def _same_together(self, probe: Sequence[int], length: int) -> bool:
        ids = np.resize(np.array(probe, dtype=np.int64), (_PROBE_ROWS, length))
        alone = np.concatenate([self.infer(row[None]) for row in ids])
        return bool(np.array_equal(self.infer(ids), alone))

    def infer(self, ids: npt.NDArray[np.int64]) -> Vectors:
        """The vectors of texts of equal length, float32 (n, dim), from token ids, int64 (n, tokens)."""
        with self._idle_lock:
            request = self._idle.pop() if self._idle else None
        if request is None:
            request = self._graph.create_infer_request()
        inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if "token_type_ids" in self._names:
            inputs["token_type_ids"] = np.zeros_like(ids)
        try:
            vectors: Vectors = request.infer(inputs)[0].copy()
        finally:
            with self._idle_lock:
                self._idle.append(request)
        return vectors


def _bytes(source: Path | bytes) -> bytes:
    return source if isinstance(source, bytes) else source.read_bytes()


def _best_precision(core: Any) -> str:
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in capabilities else "f32"


def import_openvino() -> ModuleType:
    """OpenVINO without its conversion tools.

    They cost a fifth of the start-up, and importing them reports to a statistics server. Whoever
    asks for `openvino.convert_model` later gets it, with the reporting left out.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    with _IMPORT:
        if "openvino" in sys.modules:
            return sys.modules["openvino"]
        tools = "openvino.tools.ovc"
        sys.modules[tools] = None  # type: ignore[assignment]
        try:
            openvino = importlib.import_module("openvino")
        except ImportError:
            raise MissingExtraError.of("openvino", "pipeline") from None
        finally:
            sys.modules.pop(tools, None)
        if not hasattr(openvino, "convert_model"):
            openvino.__dict__["__getattr__"] = _late_attribute
        return openvino


def import_converter() -> Any:
    """`openvino.convert_model`, with its reporting to a statistics server left out.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    import_openvino()
    with _IMPORT:
        absent = "openvino_telemetry" not in sys.modules
        if absent:
            sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            return importlib.import_module("openvino.tools.ovc").convert_model
        except ImportError:
            raise MissingExtraError.of("openvino", "pipeline") from None
        finally:
            if absent:
                sys.modules.pop("openvino_telemetry", None)


def _late_attribute(name: str) -> Any:
    if name == "convert_model":
        return import_converter()
    raise AttributeError(f"module 'openvino' has no attribute {name!r}")
