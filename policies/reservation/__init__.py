"""Reservation: how much KV an admission must leave free. One file each."""

from policies.reservation.base import AnyReservation, JointReservation, Reservation
from policies.reservation.full import Full
from policies.reservation.none import NoReservation
from policies.reservation.past_future import PastFuture
from policies.reservation.predicted import Predicted
from policies.reservation.ratio import Ratio

__all__ = [
    "AnyReservation",
    "Full",
    "JointReservation",
    "NoReservation",
    "PastFuture",
    "Predicted",
    "Ratio",
    "Reservation",
]
