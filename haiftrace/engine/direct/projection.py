"""Token vectors: the mean of the layers' unit direct gradients, projected to K numbers.

A gradient Σ_h e_h ⊗ x̄_h is projected by its factors, without being formed (a face-splitting
product): y_k = Σ_h (a_gk · e_h)(b_k · x̄_h), with independent random signs a [E] for every key-value
head and b [D] for every layer. Wide inputs are first projected to `NARROW` numbers, by signs too.
Layers have independent signs, so that of two tokens

    E[y · y'] = (1/L) Σ_ℓ cos(G_ℓ, G'_ℓ).
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor

from haiftrace.engine.direct.factors import LayerFactors

NARROW = 64
"""Width that a layer's input is projected to before it is projected to K."""


class TokenProjector:
    """Projections of direct gradients; the same seed gives the same signs on every device.

    Args:
        dimension: K.
        seed: of the signs.
        layers: L.

    Raises:
        ValueError: the dimension is not positive.
    """

    def __init__(self, dimension: int, seed: int, layers: int) -> None:
        if dimension < 1:
            raise ValueError(f"a projection has a positive number of dimensions, not {dimension}")
        self.dimension = dimension
        self._seed = seed
        self._layers = layers
        self._signs: dict[tuple[object, ...], Tensor] = {}

    def of_layer(self, layer: int, factors: LayerFactors) -> Tensor:
        """[J, K] what one layer adds to the vectors of J labels."""
        grads, inputs = factors.output_grad_GJRE, factors.input_GJRD
        groups, _, heads, width = grads.shape
        wide = inputs.shape[-1]
        if wide > NARROW:
            signs = self._sign_matrix((layer, "narrow"), (wide, NARROW), NARROW**-0.5, inputs)
            inputs = inputs @ signs
        signs_DK = self._sign_matrix(
            (layer, "input"), (inputs.shape[-1], self.dimension), 1.0, inputs
        )
        # The keys are hashed: another one would give other signs than those of stored vectors.
        signs_GEK = self._sign_matrix(
            (layer, "slope"), (groups, width, self.dimension), 1.0, inputs
        )
        vectors_JK = inputs.new_zeros(factors.count, self.dimension)
        # A head at a time, so that the projections stay in a processor's cache.
        for group in range(groups):
            for head in range(heads):
                projected_inputs = inputs[group, :, head] @ signs_DK
                vectors_JK.addcmul_(projected_inputs, grads[group, :, head] @ signs_GEK[group])
        return vectors_JK.mul_(1 / math.sqrt(self._layers * self.dimension))

    def _sign_matrix(
        self, key: tuple[object, ...], shape: tuple[int, ...], scale: float, like: Tensor
    ) -> Tensor:
        """Signs times a scale, on the device and in the precision of `like`."""
        cache_key = (*key, shape, like.device, like.dtype)
        if cache_key not in self._signs:
            name = "|".join(map(str, (self._seed, self.dimension, *key, shape)))
            seed_words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u8")
            count = math.prod(shape)
            raw = np.random.Philox(key=seed_words).random_raw((count + 63) // 64)
            bits = np.unpackbits(np.ascontiguousarray(raw, dtype="<u8").view(np.uint8), count=count)
            signs = torch.from_numpy(bits.astype(np.float32) * 2 - 1).reshape(shape)
            self._signs[cache_key] = (signs * scale).to(like)
        return self._signs[cache_key]
