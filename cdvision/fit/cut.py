"""Cuts a PyTorch network at a named module: what runs before and with it, and what runs behind."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from cdvision.errors import CdvisionError

OUTPUT = "output"  # name of a network's only output
NAMES_SHOWN = 12


class _Tracer(fx.Tracer):
    """Traces a network, but leaves the module at the split point whole."""

    def __init__(self, split: str) -> None:
        super().__init__()
        self._split = split

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Tell what is not traced into."""
        return module_qualified_name == self._split or super().is_leaf_module(
            m, module_qualified_name
        )


def cut_network(network: nn.Module, split: str) -> tuple[nn.Module, nn.Module]:
    """Return front (image to features) and tail (features to outputs); parameters are shared.

    Args:
        network: one image tensor in; in evaluation mode.
        split: name of the module whose output is what the tail reads, as ``named_modules`` has it.

    Raises:
        CdvisionError: there is no such module, the network cannot be traced, or something else
            than that output reaches the tail.
    """
    if split not in dict(network.named_modules()) or not split:
        raise CdvisionError(f"the network has no module {split!r} to split at: {_known(network)}")
    try:
        graph = _Tracer(split).trace(network)
    except Exception as error:  # whatever the network's own code raises when it meets a proxy
        reason = " ".join(str(error).split())[:160]
        raise CdvisionError(
            f"the network cannot be cut at {split!r}, its code depends on values ({reason}): give "
            "--network a factory that returns the two parts itself, (front, tail)"
        ) from error
    calls = [n for n in graph.nodes if n.op == "call_module" and n.target == split]
    if len(calls) != 1:
        raise CdvisionError(
            f"module {split!r} runs {len(calls)} times in the network: expected once"
        )
    return _front(network, graph, split), _tail(network, graph, split)


def _front(network: nn.Module, graph: fx.Graph, split: str) -> nn.Module:
    part = copy.deepcopy(graph)
    (end,) = (node for node in part.nodes if node.op == "output")
    end.args = (_call_of(part, split),)
    return fx.GraphModule(network, _pruned(network, part)).eval()


def _tail(network: nn.Module, graph: fx.Graph, split: str) -> nn.Module:
    part = copy.deepcopy(graph)
    cut = _call_of(part, split)
    with part.inserting_before(cut):
        features = part.placeholder("features")
    cut.replace_all_uses_with(features)
    part = _pruned(network, part)
    images = [n for n in part.nodes if n.op == "placeholder" and n.name != features.name]
    if any(image.users for image in images):
        raise CdvisionError(
            f"behind {split!r} the network also reads what comes before it (a skip connection): "
            "split where one tensor carries everything"
        )
    for image in images:
        part.erase_node(image)
    return NamedOutputs(fx.GraphModule(network, part)).eval()


def _pruned(network: nn.Module, graph: fx.Graph) -> fx.Graph:
    """Drop what leads nowhere; only inside a module does a graph know what has side effects."""
    graph = fx.GraphModule(network, graph).graph
    graph.eliminate_dead_code()
    return graph


def _call_of(graph: fx.Graph, module: str) -> fx.Node:
    calls: list[fx.Node] = [n for n in graph.nodes if n.op == "call_module"]
    return next(node for node in calls if node.target == module)


def _known(network: nn.Module) -> str:
    """Say what can be named: the top of the tree first."""
    names = sorted((n for n, _ in network.named_modules() if n), key=lambda n: n.count("."))
    shown = ", ".join(names[:NAMES_SHOWN])
    return f"expected one of {shown}{' ...' if len(names) > NAMES_SHOWN else ''}"


class NamedOutputs(nn.Module):
    """Gives a network's outputs names, whatever it returns: a tensor, several, or a dict."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Map features to outputs by name."""
        return named_outputs(self.network(features))


def named_outputs(value: Any) -> dict[str, Tensor]:
    """Name what a network returned: ``output``, ``output0`` and on, or the keys of its dict.

    Raises:
        CdvisionError: there is something else in it than tensors.
    """
    if isinstance(value, Tensor):
        return {OUTPUT: value}
    if isinstance(value, Mapping):
        named = {str(name): part for name, part in value.items()}
    elif isinstance(value, (tuple, list)):
        named = {f"{OUTPUT}{place}": part for place, part in enumerate(value)}
    else:
        named = {OUTPUT: value}
    for name, part in named.items():
        if not isinstance(part, Tensor):
            raise CdvisionError(
                f"the network's {name} is a {type(part).__name__}: expected tensors, alone, in a "
                "tuple or in a dict"
            )
    return named
