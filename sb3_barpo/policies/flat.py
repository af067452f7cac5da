"""A recognised policy as one vector of parameters, with quick weights, gradients by hand, and one step of Adam."""

import math
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_barpo.policies import mlp
from sb3_barpo.policies.networks import BLOCK, MIN_COLUMNS, Buffers, Layer, Network, through

#: Settings of Adam that a step by hand supports.
_PLAIN = {
    "amsgrad": False,
    "maximize": False,
    "capturable": False,
    "differentiable": False,
    "decoupled_weight_decay": False,
}


class FlatNetwork:
    """
    One of the policy's networks over the vectors of a :class:`FlatPolicy`.

    The quick weights (tanh as a logistic function, see :mod:`sb3_barpo.policies.networks`) are a linear map of the
    parameters: a factor for each, and for layers behind a tanh half the sum of their weights from the bias. The
    gradient returns to the parameters through its transpose.

    :param modules: What :func:`sb3_barpo.policies.mlp.modules` found.
    :param flat: The policy's vectors.
    :param rows: Number of rows whose outputs are kept for their way back.
    """

    def __init__(self, modules: list[nn.Module], flat: "FlatPolicy", rows: int) -> None:
        linears: list[Any] = modules[::2]
        activations = [*map(type, modules[1::2]), None]
        #: Of the inputs that :meth:`forward` takes: the features, then zeros.
        self.width = flat.columns[linears[0].weight]
        self.features = linears[0].in_features
        self._layers: list[Layer] = []
        #: Gradients of weight and bias, and halves for a layer behind a tanh.
        self._gradients: list[tuple[th.Tensor, th.Tensor, th.Tensor | None]] = []
        before: type[nn.Module] | None = None
        for linear, activation in zip(linears, activations, strict=True):
            factor = 1.0 + (activation is nn.Tanh)
            flat.wide_factors[linear.bias].fill_(factor)
            flat.wide_factors[linear.weight].fill_(factor * (1 + (before is nn.Tanh)))
            weight, bias = flat.wide_quick[linear.weight], flat.wide_quick[linear.bias]
            half = th.full_like(weight[0], 0.5) if before is nn.Tanh else None
            self._layers.append(Layer(weight.t(), bias, weight, activation))
            self._gradients.append((flat.wide_gradients[linear.weight], flat.wide_gradients[linear.bias], half))
            before = activation
        widths = [linear.out_features for linear in linears]
        self._outputs = Buffers(widths, rows, flat.vector)
        self._slopes = Buffers(widths[:-1], min(rows, BLOCK), flat.vector)
        first, *rest = self._layers
        #: The same network for searches, a block at a time: its inputs are without the zeros.
        self.network = Network(
            [first._replace(weight=first.weight[: self.features]), *rest],
            (Buffers(widths, min(rows, BLOCK), flat.vector), self._slopes),
        )

    def refresh(self) -> None:
        """Complete the quick weights after their vector has changed."""
        for layer, (_, _, half) in zip(self._layers, self._gradients, strict=True):
            if half is not None:
                layer.bias.addmv_(layer.back, half, alpha=-1)

    def forward(self, inputs: th.Tensor, start: int = 0) -> th.Tensor:
        """
        :param inputs: Shape ``(B, width)``.
        :param start: The row of the buffers where these begin.
        :return: The last layer's outputs in those rows of the buffers, shape ``(B, out)``.
        """
        n = inputs.shape[0]
        if n > BLOCK:
            for i, some in enumerate(th.split(inputs, BLOCK)):
                self.forward(some, start + i * BLOCK)
            return self.output(start, n)
        for layer, buffer in zip(self._layers, self._outputs.rows(start, n), strict=True):
            inputs = layer.forward(inputs, buffer)
        return inputs

    def output(self, start: int, n: int) -> th.Tensor:
        """:return: The last outputs in ``n`` rows from ``start``, shape ``(n, out)``."""
        return self._outputs.rows(start, n)[-1]

    def finish(self) -> None:
        """Complete the gradient with respect to the quick weights."""
        for to_weight, to_bias, half in self._gradients:
            if half is not None:
                to_weight.sub_(to_bias.unsqueeze(1), alpha=0.5)

    def to_parameters(self, inputs: th.Tensor, gradient: th.Tensor, start: int = 0, more: bool = False) -> None:
        """
        Write the gradient with respect to the quick weights into the policy's vector of gradients.

        :param inputs: What :meth:`forward` has seen in these rows, shape ``(B, width)``.
        :param gradient: Gradient with respect to its outputs, shape ``(B, out)``.
        :param start: The row of the buffers where they begin.
        :param more: Adds to what other rows have written.
        """
        n = inputs.shape[0]
        if n > BLOCK:
            for i, (some, slope) in enumerate(zip(th.split(inputs, BLOCK), th.split(gradient, BLOCK), strict=True)):
                self.to_parameters(some, slope, start + i * BLOCK, more or i > 0)
            return
        outputs, slopes = self._outputs.rows(start, n), self._slopes.rows(0, n)
        for i in range(len(self._layers) - 1, -1, -1):
            to_weight, to_bias, _ = self._gradients[i]
            below = outputs[i - 1] if i else inputs
            if more:
                to_bias.add_(gradient.sum(0))
                to_weight.addmm_(gradient.t(), below)
            else:
                th.sum(gradient, 0, out=to_bias)
                th.mm(gradient.t(), below, out=to_weight)
            if i:
                slope = th.mm(gradient, self._layers[i].back, out=slopes[i - 1])
                gradient = through(self._layers[i - 1].activation, slope, below)


class FlatPolicy:
    """
    A recognised policy for the length of an update: its parameters lie in one vector. The policy's own are brought up
    to date when somebody asks for them, and by :meth:`put_back`, which ends it. Best made in inference mode, in which
    PyTorch keeps no account of tensors.

    The weights of a narrow first layer lie in rows that zeros fill up. Their gradients are zero, and so they stay.

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
        #: The last dimension of each parameter as it lies in the vectors.
        self.columns = {parameter: parameter.shape[-1] for parameter in self._parameters}
        for first in (actor[0], critic[0]):
            weight: Any = first.weight
            self.columns[weight] = max(weight.shape[1], MIN_COLUMNS)
        size = sum(parameter[..., 0].numel() * self.columns[parameter] for parameter in self._parameters)
        self.vector = th.zeros(size, dtype=self._parameters[0].dtype, device=policy.device)
        self.values = self._own(self._views(self.vector))
        for parameter, value in self.values.items():
            value.copy_(parameter.detach())
        self._quick, self._factors = th.empty_like(self.vector), th.ones_like(self.vector)
        self._gradient, self._denominator = th.zeros_like(self.vector), th.empty_like(self.vector)
        self.wide_quick, self.wide_factors = self._views(self._quick), self._views(self._factors)
        self.wide_gradients = self._views(self._gradient)
        self.gradients, self.factors = self._own(self.wide_gradients), self._own(self.wide_factors)
        self._moments = self._begin_adam()
        self._steps = self._brought = 0
        self.actor, self.critic = FlatNetwork(actor, self, 2 * rows), FlatNetwork(critic, self, min(rows, BLOCK))
        self.prepared = mlp.Prepared(
            policy, self.actor.network, self.critic.network, None, before=self._bring_up_to_date
        )
        self._log_std = None if mlp.gaussian_of(policy) is None else self.values[policy.log_std]
        self.refresh()

    @staticmethod
    def supports(policy: Any) -> bool:
        """:return: Whether policy and optimiser are such that an update by hand does what the general one does."""
        optimizer, parameters = policy.optimizer, list(policy.parameters())
        if not mlp.is_mlp(policy) or type(optimizer) is not th.optim.Adam or len(optimizer.param_groups) > 1:
            return False
        group = optimizer.param_groups[0]
        read = [p for part in ("actor", "critic") for m in mlp.modules(policy, part) or [] for p in m.parameters()]
        read += [policy.log_std] if mlp.gaussian_of(policy) is not None else []
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
            and not any(isinstance(x, th.Tensor) for x in (group["lr"], *group["betas"]))
            and len({float(optimizer.state[p]["step"]) if optimizer.state.get(p) else 0.0 for p in parameters}) == 1
        )

    def refresh(self) -> None:
        """Take the quick weights anew from the parameters."""
        th.mul(self.vector, self._factors, out=self._quick)
        self.actor.refresh()
        self.critic.refresh()
        if self._log_std is not None:
            self.prepared.gaussian = mlp.Gaussian.of(self._log_std)

    def step(self, max_grad_norm: float) -> None:
        """Bring the gradient back to the parameters, clip it as ``clip_grad_norm_`` does, take Adam's step."""
        self.actor.finish()
        self.critic.finish()
        gradient = self._gradient.mul_(self._factors)
        norm = th.linalg.vector_norm(gradient)
        gradient.mul_(norm.add_(1e-6).reciprocal_().mul_(max_grad_norm).clamp_(max=1.0))
        self._steps += 1
        self._adam(gradient)
        self.refresh()

    def _adam(self, gradient: th.Tensor) -> None:
        """One step of ``torch.optim.Adam``, whose number of steps is no tensor here."""
        group = self.policy.optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        first, second = self._moments
        taken = self._begun + self._steps
        if group["weight_decay"]:
            gradient.add_(self.vector, alpha=group["weight_decay"])
        first.lerp_(gradient, 1 - beta1)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = math.sqrt(1 - beta2**taken)
        th.sqrt(second, out=self._denominator).add_(root * group["eps"])
        self.vector.addcdiv_(first, self._denominator, value=-group["lr"] * root / (1 - beta1**taken))

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
        first, second = (self._own(self._views(vector)) for vector in self._moments)
        for parameter in self._parameters:
            self.policy.optimizer.state[parameter] = {
                "step": th.tensor(self._begun + self._steps, dtype=th.float32),
                "exp_avg": first[parameter].clone(memory_format=th.contiguous_format),
                "exp_avg_sq": second[parameter].clone(memory_format=th.contiguous_format),
            }

    def _begin_adam(self) -> tuple[th.Tensor, th.Tensor]:
        """The optimiser's two moments, each one vector; and how many steps it has taken."""
        vectors = th.zeros_like(self.vector), th.zeros_like(self.vector)
        states = self.policy.optimizer.state
        self._begun = 0.0
        for name, vector in zip(("exp_avg", "exp_avg_sq"), vectors, strict=True):
            for parameter, part in self._own(self._views(vector)).items():
                if states.get(parameter):
                    part.copy_(states[parameter][name])
                    self._begun = float(states[parameter]["step"])
        return vectors

    def _views(self, vector: th.Tensor) -> dict[nn.Parameter, th.Tensor]:
        """
        The parameters' places in a vector, with the zeros that fill rows up. The longer side of a weight is contiguous:
        products for a narrow gradient are slow otherwise.
        """
        shapes = [(*parameter.shape[:-1], self.columns[parameter]) for parameter in self._parameters]
        parts = th.split(vector, [math.prod(shape) for shape in shapes])
        return {
            p: part.view(shape[::-1]).t() if len(shape) == 2 and shape[0] > shape[1] else part.view(shape)
            for p, part, shape in zip(self._parameters, parts, shapes, strict=True)
        }

    @staticmethod
    def _own(views: dict[nn.Parameter, th.Tensor]) -> dict[nn.Parameter, th.Tensor]:
        """The same without the zeros, in the parameters' shapes."""
        return {parameter: view[..., : parameter.shape[-1]] for parameter, view in views.items()}
