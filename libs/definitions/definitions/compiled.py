"""How kernels are compiled: once a machine, into `__pycache__` beside the source or below NUMBA_CACHE_DIR.

numba keeps a kernel while its own file is unchanged, whatever became of the kernels that it calls in other files. So
the folder is named by the content of all files with kernels: an old machine code is never run.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import types
from numba.extending import intrinsic

P = ParamSpec("P")
R = TypeVar("R")

_HERE = Path(__file__).parent
_config: Any = numba.config
_njit: Any = numba.njit  # its declared type lacks an option


def _cache_folder() -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(_HERE.glob("*.py")):
        source = path.read_bytes()
        if b"definitions.compiled import" in source or path.name == "compiled.py":
            digest.update(path.name.encode() + source)
    root = Path(_config.CACHE_DIR or _HERE / "__pycache__")
    return str(root / f"definitions-{digest.hexdigest()}")


_FOLDER = _cache_folder()


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile on the first call with given types, or load what another process compiled. Runs without the GIL."""
    return _compiled(function, nogil=True)


def brief(function: Callable[P, R]) -> Callable[P, R]:
    """A kernel of a few microseconds, which keeps the GIL: where threads wait for it, each time that it is given up
    costs as much as fifty such calls.

    A call looks at the type of each argument: 0.07 us for a number or an array, 1 to 3 us for a tuple of arrays. So
    the parts of a tuple are passed one by one, and put together again inside.
    """
    return _compiled(function, nogil=False)


def _compiled(function: Callable[P, R], *, nogil: bool) -> Callable[P, R]:
    before, _config.CACHE_DIR = _config.CACHE_DIR, _FOLDER
    try:
        return cast("Callable[P, R]", _njit(cache=True, nogil=nogil, error_model="numpy")(function))
    finally:
        _config.CACHE_DIR = before


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """A part of kernels: compiled into each that calls it. It makes no arrays, so it counts no references either."""
    return cast("Callable[P, R]", _njit(nogil=True, error_model="numpy", _nrt=False)(function))


def _pointer(context: Any, builder: Any, signature: Any, arguments: Any, kind: Any, step: int) -> Any:
    """To a number of `kind`, `step` bytes times the second argument into the array that is the first."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    first = builder.bitcast(array.data, context.get_value_type(types.uint8).as_pointer())
    at = builder.mul(arguments[1], context.get_constant(types.intp, step))
    return builder.bitcast(builder.gep(first, [at]), context.get_value_type(kind).as_pointer())


def _putter(step: int) -> Any:
    @intrinsic
    def put(typingctx: Any, data: Any, at: Any, value: Any) -> Any:  # noqa: ARG001  numba's interface
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = _pointer(context, builder, signature, arguments, signature.args[2], step)
            builder.store(arguments[2], place).align = step
            return context.get_dummy_value()

        return types.void(data, types.intp, value), generate

    return put


def _taker(kind: Any, step: int) -> Any:
    @intrinsic
    def take(typingctx: Any, data: Any, at: Any) -> Any:  # noqa: ARG001  numba's interface
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            load = builder.load(_pointer(context, builder, signature, arguments, kind, step))
            load.align = step
            return load

        return kind(data, types.intp), generate

    return take


def _prefetcher(step: int) -> Any:
    @intrinsic
    def ask(typingctx: Any, data: Any, at: Any) -> Any:  # noqa: ARG001  numba's interface
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            place = _pointer(context, builder, signature, arguments, types.uint8, step)
            flags = [context.get_constant(types.int32, flag) for flag in (0, 3, 1)]  # to read, to keep, data
            kind = ir.FunctionType(ir.VoidType(), [place.type, *(flag.type for flag in flags)])
            builder.call(builder.module.declare_intrinsic("llvm.prefetch", [place.type], kind), [place, *flags])
            return context.get_dummy_value()

        return types.void(data, types.intp), generate

    return ask


def _cast(source: Any, target: Any) -> Any:
    @intrinsic
    def cast_bits(typingctx: Any, value: Any) -> Any:  # noqa: ARG001  numba's interface
        def generate(context: Any, builder: Any, _: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(target))

        return target(source), generate

    return cast_bits


# The 64 bits of a float as a word, and back.
bits_of, float_of = _cast(types.float64, types.int64), _cast(types.int64, types.float64)
# Numbers at any byte of a uint8 array, little-endian as the machine is.
put = _putter(1)
take_i64, take_u32, take_u16 = _taker(types.int64, 1), _taker(types.uint32, 1), _taker(types.uint16, 1)
# Half words, 32 bits, of an array of words: by their number.
put_half, take_half = _putter(4), _taker(types.uint32, 4)
# Asks for the cache line of a half word, a word or an index's row, by its number, without waiting; any number is safe.
prefetch_slot, prefetch, prefetch_row = _prefetcher(4), _prefetcher(8), _prefetcher(16)
