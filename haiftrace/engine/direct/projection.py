"""Token vectors: the mean of the layers' unit direct gradients, projected to K numbers.

A gradient Σ_h e_h ⊗ x̄_h is projected by its factors, without being formed (a face-splitting
product): y_k = Σ_h (a_gk · e_h)(b_k · x̄_h), with independent random signs a [E] for every key-value
head and b [D] for every layer. Wide inputs are first taken to a few numbers, by signs too. Layers
have signs of their own, so that of two tokens

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
"""Numbers that a layer's input is taken to before it meets K of them."""


class TokenProjector:
    """Projections of direct gradients; the same seed gives the same signs on every device.

    Args:
        dimension: K.
        seed: of the signs.
        layers: L.
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
        groups, _, _, width = factors.slope_GJRE.shape
        inputs = factors.input_GJRD
        wide = inputs.shape[-1]
        if wide > NARROW:
            inputs = inputs @ self._of((layer, "narrow"), (wide, NARROW), NARROW**-0.5, inputs)
        by_input = inputs @ self._of(
            (layer, "input"), (inputs.shape[-1], self.dimension), 1.0, inputs
        )
        signs_GEK = self._of((layer, "slope"), (groups, width, self.dimension), 1.0, inputs)
        by_slope = (factors.slope_GJRE.flatten(1, 2) @ signs_GEK).reshape(by_input.shape)
        scale = 1 / math.sqrt(self._layers * self.dimension)
        return (by_input * by_slope).sum((0, 2)) * scale

    def _of(
        self, key: tuple[object, ...], shape: tuple[int, ...], scale: float, like: Tensor
    ) -> Tensor:
        whole = (*key, shape, like.device, like.dtype)
        if whole not in self._signs:
            name = "|".join(map(str, (self._seed, self.dimension, *key, shape)))
            words = np.frombuffer(hashlib.sha256(name.encode()).digest()[:16], dtype="<u8")
            count = math.prod(shape)
            raw = np.random.Philox(key=words).random_raw((count + 63) // 64)
            bits = np.unpackbits(np.ascontiguousarray(raw, dtype="<u8").view(np.uint8), count=count)
            signs = torch.from_numpy(bits.astype(np.float32) * 2 - 1).reshape(shape)
            self._signs[whole] = (signs * scale).to(like)
        return self._signs[whole]
