"""Makes methods of verbs: the same for clients that wait and clients that are awaited.

A decorated verb is written once, in a class that is generic in its cloud. Of an object
on a `Cloud` it is a method that returns the result, of one on an `AsyncCloud` a method
whose result is awaited.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import wraps
from inspect import signature
from types import GenericAlias, MethodType
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypeVar,
    cast,
    get_args,
    overload,
)

from genie.sdk.requests import Items, Steps

A = ParamSpec("A")
R = TypeVar("R", covariant=True)
S = TypeVar("S")
T = TypeVar("T")

AnyFunction = Callable[..., Any]


class Cloud(Protocol):
    """Takes the steps of verbs: what jobs, batches and files need of a client."""

    def run(self, steps: Steps[T]) -> T:
        """The result of the steps."""

    def each(self, items: Items[T]) -> Iterator[T]:
        """The items as they are found."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""


class AsyncCloud(Protocol):
    """Takes the steps of verbs by awaiting them."""

    async def run(self, steps: Steps[T]) -> T:
        """The result of the steps."""

    def each(self, items: Items[T]) -> AsyncIterator[T]:
        """The items as they are found."""

    def now(self) -> float:
        """Seconds of a clock that never goes back."""


C = TypeVar("C", bound=Cloud | AsyncCloud)


class OnCloud(Generic[C]):
    """The base of everything with verbs; those on an `AsyncCloud` set ``_awaits``."""

    _awaits = False

    def __init__(self, cloud: C) -> None:
        self._cloud = cloud


Blocking = TypeVar("Blocking", bound=OnCloud[Cloud])
Awaiting = TypeVar("Awaiting", bound=OnCloud[AsyncCloud])


class Verb(Protocol[A, R]):
    """The type of a method made by `verb`."""

    @overload
    def __get__(self, one: None, kind: type) -> Callable[Concatenate[Any, A], Any]: ...

    @overload
    def __get__(self, one: OnCloud[Cloud], kind: type) -> Callable[A, R]: ...

    @overload
    def __get__(
        self, one: OnCloud[AsyncCloud], kind: type
    ) -> Callable[A, Coroutine[Any, Any, R]]: ...


class SelfVerb(Protocol[A]):
    """The type of a method made by `self_verb`."""

    @overload
    def __get__(self, one: None, kind: type) -> Callable[Concatenate[Any, A], Any]: ...

    @overload
    def __get__(self, one: Blocking, kind: type) -> Callable[A, Blocking]: ...

    @overload
    def __get__(
        self, one: Awaiting, kind: type
    ) -> Callable[A, Coroutine[Any, Any, Awaiting]]: ...


class ItemsVerb(Protocol[A, R]):
    """The type of a method made by `items_verb`."""

    @overload
    def __get__(self, one: None, kind: type) -> Callable[Concatenate[Any, A], Any]: ...

    @overload
    def __get__(self, one: OnCloud[Cloud], kind: type) -> Callable[A, Iterator[R]]: ...

    @overload
    def __get__(
        self, one: OnCloud[AsyncCloud], kind: type
    ) -> Callable[A, AsyncIterator[R]]: ...


def verb(steps: Callable[Concatenate[Any, A], Steps[T]]) -> Verb[A, T]:
    """A verb as a method that returns its result."""
    return cast(Verb[A, T], _Method(steps))


def self_verb(steps: Callable[Concatenate[S, A], Steps[S]]) -> SelfVerb[A]:
    """A verb as a method that returns its object, or another of the same class."""
    return cast(SelfVerb[A], _Method(steps))


def items_verb(items: Callable[Concatenate[Any, A], Items[T]]) -> ItemsVerb[A, T]:
    """A verb as a method that yields its results."""
    return cast(ItemsVerb[A, T], _ItemsMethod(items))


class _Method:
    """Two functions with the name, text and parameters of a verb.

    The class of the object chooses: the first waits, the second is awaited.
    """

    def __init__(self, verb: AnyFunction) -> None:
        self._verb = verb
        (self._result,) = get_args(verb.__annotations__["return"])
        self.__doc__, self.__module__ = verb.__doc__, verb.__module__
        self._functions = self._make()

    def __get__(self, one: object, kind: type[OnCloud[Any]]) -> AnyFunction:
        function = self._functions[kind._awaits]
        return function if one is None else cast(AnyFunction, MethodType(function, one))

    def _make(self) -> tuple[AnyFunction, AnyFunction]:
        def waits(one: OnCloud[Cloud], /, *args: Any, **options: Any) -> object:
            return one._cloud.run(self._verb(one, *args, **options))

        async def awaited(
            one: OnCloud[AsyncCloud], /, *args: Any, **options: Any
        ) -> object:
            return await one._cloud.run(self._verb(one, *args, **options))

        return (
            self._shown(waits, _named(self._result, "")),
            self._shown(awaited, _named(self._result, "Async")),
        )

    def _shown(self, function: AnyFunction, result: object) -> AnyFunction:
        made = wraps(self._verb)(function)
        shown = signature(self._verb).replace(return_annotation=result)
        vars(made)["__signature__"] = shown
        return made


class _ItemsMethod(_Method):
    def _make(self) -> tuple[AnyFunction, AnyFunction]:
        def waits(one: OnCloud[Any], /, *args: Any, **options: Any) -> object:
            return one._cloud.each(self._verb(one, *args, **options))

        def awaited(one: OnCloud[Any], /, *args: Any, **options: Any) -> object:
            return waits(one, *args, **options)

        return (
            self._shown(waits, GenericAlias(Iterator, _named(self._result, ""))),
            self._shown(
                awaited, GenericAlias(AsyncIterator, _named(self._result, "Async"))
            ),
        )


def _named(result: Any, prefix: str) -> object:
    """A result type as readers know it: ``Job`` or ``AsyncJob``, not ``~JobT``."""
    if isinstance(result, TypeVar):
        is_class = result.__name__.endswith("T")
        return f"{prefix}{result.__name__[:-1]}" if is_class else result
    parameters = getattr(result, "__parameters__", ())
    named = tuple(_named(one, prefix) for one in parameters)
    return result[named] if named else result
