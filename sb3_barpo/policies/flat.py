"""A recognised policy as one vector of parameters, with quick weights, gradients by hand, and one step of Adam."""

from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.optim.adam import adam

from sb3_barpo.policies import mlp
from sb3_barpo.policies.mlp import Buffers, Layer, Network

#: Settings of Adam that one kernel for all parameters supports.
_PLAIN = {"amsgrad": False, "maximize": False, "capturable": False, "differentiable": False}


class FlatNetwork:
    """
    One of the policy's networks over the vectors of a :class:`FlatPolicy`.

    The quick weights (tanh as a logistic function, see :class:`sb3_barpo.policies.mlp.Network`) are a linear map of
    the parameters: a factor for each, and for layers behind a tanh half the sum of their weights from the bias. The
    gradient returns to the parameters through its transpose.

    :param modules: What :func:`sb3_barpo.policies.mlp.modules` found.
    :param flat: The policy's vectors.
    :param rows: Number of rows of the largest batch.
    """

    def __init__(self, modules: list[nn.Module], flat: "FlatPolicy", rows: int) -> None:
        linears: list[Any] = modules[::2]
        activations = [*map(type, modules[1::2]), None]
        self.features = linears[0].in_features
        #: Of the inputs that :meth:`forward` takes: the features, then zeros.
        self.width = max(self.features, mlp.MIN_COLUMNS)
        self._layers: list[tuple[Layer, th.Tensor, th.Tensor, th.Tensor | None]] = []
        self._padded: list[tuple[th.Tensor, th.Tensor]] = []
        self._unpadded: list[tuple[th.Tensor, th.Tensor]] = []
        before: type[nn.Module] | None = None
        for linear, activation in zip(linears, activations, strict=True):
            factor = 1.0 + (activation is nn.Tanh)
            flat.factors[linear.bias].fill_(factor)
            flat.factors[linear.weight].fill_(factor * (1 + (before is nn.Tanh)))
            weight, gradient = flat.quick[linear.weight], flat.gradients[linear.weight]
            if not self._layers and self.width > self.features:
                wide, wide_gradient = (weight.new_zeros(len(weight), self.width) for _ in range(2))
                self._padded = [(wide[:, : self.features], weight)]
                self._unpadded = [(gradient, wide_gradient[:, : self.features])]
                weight, gradient = wide, wide_gradient
            half = th.full_like(weight[0], 0.5) if before is nn.Tanh else None
            layer = Layer(weight.t(), flat.quick[linear.bias], weight, activation)
            self._layers.append((layer, gradient, flat.gradients[linear.bias], half))
            before = activation
        widths = [linear.out_features for linear in linears]
        self._buffers = Buffers(widths, rows, flat.vector)
        first, *rest = (layer for layer, *_ in self._layers)
        #: The same network for inputs without the zeros; it writes into the second half of the buffers.
        self.network = Network([first._replace(weight=first.weight[: self.features]), *rest], self._buffers)

    def refresh(self) -> None:
        """Complete the quick weights after their vector has changed."""
        for wide, weight in self._padded:
            wide.copy_(weight)
        for layer, _, _, half in self._layers:
            if half is not None:
                layer.bias.addmv_(layer.back, half, alpha=-1)

    def forward(self, inputs: th.Tensor, start: int = 0) -> th.Tensor:
        """
        :param inputs: Shape ``(B, width)``.
        :param start: The row of the buffers where these begin.
        :return: The last layer's outputs in those rows of the buffers, shape ``(B, out)``.
        """
        output = inputs
        for (layer, *_), buffer in zip(self._layers, self._buffers.rows(start, len(inputs))[0], strict=True):
            output = th.addmm(layer.bias, output, layer.weight, out=buffer)
            if layer.activation is nn.Tanh:
                output.sigmoid_()
            elif layer.activation is nn.ReLU:
                output.relu_()
        return output

    def output(self, start: int, n: int) -> th.Tensor:
        """:return: The last outputs in ``n`` rows from ``start``, shape ``(n, out)``."""
        return self._buffers.rows(start, n)[0][-1]

    def to_parameters(self, inputs: th.Tensor, gradient: th.Tensor, start: int = 0) -> None:
        """
        Write the gradient with respect to the quick weights into the policy's vector of gradients.

        :param inputs: What :meth:`forward` has seen in these rows, shape ``(B, width)``.
        :param gradient: Gradient with respect to its outputs, shape ``(B, out)``.
        :param start: The row of the buffers where they begin.
        """
        outputs, slopes = self._buffers.rows(start, len(inputs))
        for i in range(len(self._layers) - 1, -1, -1):
            layer, to_weight, to_bias, half = self._layers[i]
            below = outputs[i - 1] if i else inputs
            th.sum(gradient, 0, out=to_bias)
            if half is None:
                th.mm(gradient.t(), below, out=to_weight)
            else:
                th.addmm(to_bias[:, None], gradient.t(), below, beta=-0.5, out=to_weight)
            if i:
                slope = th.mm(gradient, layer.back, out=slopes[i - 1])
                gradient = mlp.through(self._layers[i - 1][0].activation, slope, below)
        for gradient, wide in self._unpadded:
            gradient.copy_(wide)


class FlatPolicy:
    """
    A recognised policy for the length of an update: its parameters lie in one vector. The policy's own are brought up
    to date when somebody asks for them, and by :meth:`put_back`, which ends it. Best made in inference mode, in which
    PyTorch keeps no account of tensors.

    :param policy: The policy; see :meth:`supports`.
    :param rows: Number of rows of the largest minibatch.
    :raises TypeError: for a policy that is not recognised.
    """

    def __init__(self, policy: ActorCriticPolicy, rows: int) -> None:
        actor, critic = mlp.modules(policy, "actor"), mlp.modules(policy, "critic")
        if actor is None or critic is None:
            raise TypeError(f"A flat policy needs SB3's own MLP, not {type(policy).__name__}.")
        self.policy = policy
        self._parameters = list(policy.parameters())
        self.vector = th.cat([parameter.detach().flatten() for parameter in self._parameters])
        self._gradient = th.zeros_like(self.vector)
        self._quick = th.empty_like(self.vector)
        self._factors = th.ones_like(self.vector)
        self.values, self.gradients = self._views(self.vector), self._views(self._gradient)
        self.quick, self.factors = self._views(self._quick), self._views(self._factors)
        group = policy.optimizer.param_groups[0]
        self._settings = {name: group[name] for name in ("lr", "weight_decay", "eps", *_PLAIN)}
        self._settings |= {"beta1": group["betas"][0], "beta2": group["betas"][1]}
        self._state = self._begin_adam()
        self._steps = self._brought = 0
        self.actor, self.critic = FlatNetwork(actor, self, 2 * rows), FlatNetwork(critic, self, 2 * rows)
        log_std = None if mlp.gaussian_std(policy) is None else self.values[policy.log_std]
        self.prepared = mlp.Prepared(
            policy, self.actor.network, self.critic.network, log_std, before=self._bring_up_to_date
        )
        self.refresh()

    @staticmethod
    def supports(policy: Any) -> bool:
        """:return: Whether policy and optimiser are such that an update by hand does what the general one does."""
        optimizer, parameters = policy.optimizer, list(policy.parameters())
        if not mlp.is_mlp(policy) or type(optimizer) is not th.optim.Adam or len(optimizer.param_groups) > 1:
            return False
        group = optimizer.param_groups[0]
        read = [p for part in ("actor", "critic") for m in mlp.modules(policy, part) or [] for p in m.parameters()]
        read += [policy.log_std] if mlp.gaussian_std(policy) is not None else []
        return (
            {*map(id, parameters)} == {*map(id, group["params"])} == {*map(id, read)}
            and len(group["params"]) == len(parameters) == len(read)
            and all(p.requires_grad and not p._backward_hooks and p.dtype == th.float32 for p in parameters)
            and len({p.device for p in parameters}) == 1
            and not optimizer._optimizer_step_pre_hooks
            and not optimizer._optimizer_step_post_hooks
            and "step" not in vars(optimizer)
            and not (group["fused"] or group["foreach"])
            and all(group.get(name, plain) == plain for name, plain in _PLAIN.items())
            and len({float(optimizer.state[p]["step"]) if optimizer.state.get(p) else 0.0 for p in parameters}) == 1
        )

    def refresh(self) -> None:
        """Take the quick weights anew from the parameters."""
        th.mul(self.vector, self._factors, out=self._quick)
        self.actor.refresh()
        self.critic.refresh()

    def step(self, max_grad_norm: float) -> None:
        """Bring the gradient back to the parameters, clip it as ``clip_grad_norm_`` does, take Adam's step."""
        gradient = self._gradient.mul_(self._factors)
        gradient.mul_((max_grad_norm / (th.linalg.vector_norm(gradient) + 1e-6)).clamp_(max=1.0))
        first, second, step = self._state
        adam([self.vector], [gradient], [first], [second], [], [step], fused=True, **self._settings)
        self._steps += 1
        self.refresh()

    def _bring_up_to_date(self) -> None:
        if self._brought == self._steps:
            return
        with th.no_grad():
            for parameter, value in self.values.items():
                parameter.data.copy_(value)
        self._brought = self._steps

    def put_back(self) -> None:
        """Give the policy's own parameters and its optimiser's state what was learned. Not in inference mode."""
        self._bring_up_to_date()
        if not self._steps:
            return
        first, second, step = self._state
        moments = zip(self._parameters, self._split(first), self._split(second), strict=True)
        for parameter, exp_avg, exp_avg_sq in moments:
            self.policy.optimizer.state[parameter] = {
                "step": step.clone(),
                "exp_avg": exp_avg.clone(),
                "exp_avg_sq": exp_avg_sq.clone(),
            }

    def _begin_adam(self) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """The optimiser's two moments, each one vector, and its number of steps."""
        states = [self.policy.optimizer.state.get(parameter) for parameter in self._parameters]
        if not all(states):
            # Where the fused kernel wants the number of steps: beside the parameters.
            return th.zeros_like(self.vector), th.zeros_like(self.vector), th.zeros((), device=self.vector.device)
        first, second = (th.cat([s[name].flatten() for s in states if s]) for name in ("exp_avg", "exp_avg_sq"))
        return first, second, states[0]["step"].clone().to(self.vector.device)  # type: ignore[index]  # all are there

    def _split(self, vector: th.Tensor) -> list[th.Tensor]:
        parts = th.split(vector, [parameter.numel() for parameter in self._parameters])
        return [part.view(parameter.shape) for part, parameter in zip(parts, self._parameters, strict=True)]

    def _views(self, vector: th.Tensor) -> dict[nn.Parameter, th.Tensor]:
        return dict(zip(self._parameters, self._split(vector), strict=True))
