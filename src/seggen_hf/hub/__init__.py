"""The Hub: the one writer to it, what is staged for it, and what is published."""

from .client import Artifact, HubError, Pushed, connect, push

__all__ = ["Artifact", "HubError", "Pushed", "connect", "push"]
