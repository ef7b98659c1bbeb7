"""Tensor parallelism: how ranks talk."""

from runtime.distributed.communicator import Communicator, SingleCommunicator, TorchCommunicator

__all__ = ["Communicator", "SingleCommunicator", "TorchCommunicator"]
