"""Finding a policy by name: built in, by dotted path, or by an installed package's entry point."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from policies import batching, eviction, order, prediction, preemption, reservation
from policies.errors import PolicyError


@dataclass(frozen=True, slots=True)
class Part:
    """One of the scheduler's decisions: the classes a policy for it derives from, and those that come with us."""

    bases: tuple[type, ...]
    builtin: Mapping[str, type]


PARTS: Mapping[str, Part] = {
    "order": Part(
        (order.Order, order.DynamicOrder),
        {
            "fcfs": order.Fcfs,
            "lpm": order.Lpm,
            "k_lpm": order.KLpm,
            "dfs_weight": order.DfsWeight,
            "shortest_prefill_first": order.ShortestPrefillFirst,
            "hrrn": order.Hrrn,
            "sjf": order.Sjf,
            "srpt": order.Srpt,
            "lof": order.Lof,
            "las": order.Las,
            "mlfq": order.Mlfq,
            "vtc": order.Vtc,
            "dlpm": order.Dlpm,
            "routing_key": order.RoutingKey,
            "edf": order.Edf,
            "least_slack": order.LeastSlack,
            "priority": order.Priority,
            "random": order.Random,
        },
    ),
    "batching": Part(
        (batching.Batching,),
        {
            "prefill_first": batching.PrefillFirst,
            "decode_first": batching.DecodeFirst,
            "chunked": batching.Chunked,
            "slo_chunked": batching.SloChunked,
        },
    ),
    "reservation": Part(
        (reservation.Reservation, reservation.JointReservation),
        {
            "full": reservation.Full,
            "ratio": reservation.Ratio,
            "predicted": reservation.Predicted,
            "past_future": reservation.PastFuture,
            "none": reservation.NoReservation,
        },
    ),
    "preemption": Part(
        (preemption.Preemption,),
        {
            "newest": preemption.Newest,
            "oldest": preemption.Oldest,
            "least_progress": preemption.LeastProgress,
            "most_served": preemption.MostServed,
            "longest_remaining": preemption.LongestRemaining,
            "least_urgent": preemption.LeastUrgent,
            "min_waste": preemption.MinWaste,
        },
    ),
    "eviction": Part(
        (eviction.Eviction,),
        {
            "lru": eviction.Lru,
            "lfu": eviction.Lfu,
            "fifo": eviction.Fifo,
            "random": eviction.RandomEviction,
            "mru": eviction.Mru,
            "filo": eviction.Filo,
            "slru": eviction.Slru,
            "tlru": eviction.Tlru,
            "lfuda": eviction.Lfuda,
            "gdsf": eviction.Gdsf,
            "pgdsf": eviction.Pgdsf,
            "lru_k": eviction.LruK,
            "two_q": eviction.TwoQ,
            "arc": eviction.Arc,
            "s3fifo": eviction.S3Fifo,
            "sieve": eviction.Sieve,
            "wtinylfu": eviction.WTinyLfu,
            "ttl": eviction.Ttl,
            "session": eviction.SessionEviction,
            "priority": eviction.PriorityEviction,
            "hyperbolic": eviction.Hyperbolic,
            "lhd": eviction.Lhd,
            "flop_aware": eviction.FlopAware,
        },
    ),
    "prediction": Part(
        (prediction.Prediction,),
        {
            "max_tokens": prediction.MaxTokens,
            "oracle": prediction.Oracle,
            "noisy_oracle": prediction.NoisyOracle,
            "ranks": prediction.Ranks,
            "history": prediction.History,
        },
    ),
}


def find(part: str, name: str) -> type:
    """The class called ``name`` for a part of the policy.

    Args:
        part: A key of :data:`PARTS`.
        name: A built-in name, the name of an entry point in the group ``servetwin.<part>``, or a dotted path
            (``package.module.Class`` or ``package.module:Class``).

    Raises:
        PolicyError: There is no such class, or it is not a policy for this part.
    """
    room = PARTS[part]
    if name in room.builtin:
        return room.builtin[name]
    installed = {point.name: point for point in entry_points(group=f"servetwin.{part}")}
    if name in installed:
        found = installed[name].load()
    elif "." in name or ":" in name:
        found = _imported(part, name)
    else:
        choices = ", ".join([*room.builtin, *installed])
        raise PolicyError(
            f"policy.{part}.name={name}: no such policy. Choose one of {choices}, or name your own class by its "
            f"path, e.g. policy.{part}.name=my_policies.{name.title()}"
        )
    if not (isinstance(found, type) and issubclass(found, room.bases)):
        bases = " or ".join(f"policies.{part}.{base.__name__}" for base in room.bases)
        raise PolicyError(f"policy.{part}.name={name}: this is {found!r}, not a subclass of {bases}")
    return found


def build(part: str, name: str, parameters: Mapping[str, Any]) -> Any:
    """An instance of the named policy.

    Raises:
        PolicyError: It cannot be found, or does not take these parameters.
    """
    cls = find(part, name)
    try:
        inspect.signature(cls).bind(**parameters)
    except TypeError as error:
        accepted = ", ".join(inspect.signature(cls).parameters) or "none"
        raise PolicyError(f"policy.{part}={name}: {error}. Parameters of {cls.__name__}: {accepted}") from error
    try:
        return cls(**parameters)
    except TypeError as error:  # abstract, or a parameter of the wrong type
        raise PolicyError(f"policy.{part}={name}: {error}") from error


def _imported(part: str, path: str) -> Any:
    module_name, _, attribute = path.replace(":", ".").rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise PolicyError(
            f"policy.{part}.name={path}: cannot import {error.name!r}. A module in the current directory, or an "
            "installed one, is found by its name"
        ) from error
    except ValueError as error:
        raise PolicyError(f"policy.{part}.name={path}: not the path of a class, e.g. my_policies.Mine") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        raise PolicyError(f"policy.{part}.name={path}: {module_name} has no {attribute!r}") from error
