"""Dropout that is on in another library's model: a core's draws are then another's at every call."""

from __future__ import annotations

import warnings

from torch import nn

_LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def warn_of_dropout(argument: str, model: object) -> None:
    """Warn once, by a UserWarning, of a layer of ``model`` in training mode that drops with p > 0."""
    if not isinstance(model, nn.Module):
        return
    for name, layer in model.named_modules():
        p = (
            layer.p
            if isinstance(layer, _LAYERS)
            else layer.dropout
            if isinstance(layer, nn.MultiheadAttention)
            else 0.0
        )
        if layer.training and p > 0:
            warnings.warn(
                f"{argument} is in training mode and drops with p = {p:g} in {name or 'itself'}: draws will differ at the "
                "same seed; .eval() turns dropout off",
                UserWarning,
                stacklevel=3,
            )
            return
