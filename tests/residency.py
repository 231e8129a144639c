"""A host short of memory: whatever it loads pushes everything else out, and weights that it has not loaded are NaN."""

import weakref

import torch
from torch import nn


def short_of_memory(monkeypatch):
    """Each call that loads networks unloads all that it doesn't name, as on a card where only they fit."""
    import comfy.model_management as mm

    load = mm.load_models_gpu

    def alone(models, *args, **kwargs):
        unload(keep=[part for model in models for part in (model, *model.model_patches_models())])
        return load(models, *args, **kwargs)

    monkeypatch.setattr(mm, "load_models_gpu", alone)


def unload(keep=()):
    """Takes networks away as the host's own `free_memory` does."""
    import comfy.model_management as mm

    for loaded in list(mm.current_loaded_models):
        if loaded.model is not None and not any(loaded.model.is_clone(model) for model in keep):
            loaded.model_unload()
            if loaded in mm.current_loaded_models:  # the host drops those whose MODEL is gone by itself
                mm.current_loaded_models.remove(loaded)


class Poison:
    """NaN in place of the weights of every network that the host knows and has not loaded."""

    def __init__(self, monkeypatch):
        import comfy.model_patcher

        patcher = comfy.model_patcher.ModelPatcher
        self.networks = weakref.WeakSet()
        self.kept = weakref.WeakKeyDictionary()  # network -> its weights, while they are NaN
        made, load, unpatch = patcher.__init__, patcher.load, patcher.unpatch_model

        def make(this, model, *args, **kwargs):
            made(this, model, *args, **kwargs)
            if isinstance(model, nn.Module):
                self.networks.add(model)

        def loaded(this, *args, **kwargs):
            self.cure(this.model)
            return load(this, *args, **kwargs)

        def unpatched(this, device_to=None, unpatch_weights=True):
            unpatch(this, device_to, unpatch_weights)
            if unpatch_weights and device_to is not None:
                self.spoil(this.model)

        monkeypatch.setattr(patcher, "__init__", make)
        monkeypatch.setattr(patcher, "load", loaded)
        monkeypatch.setattr(patcher, "unpatch_model", unpatched)

    def spoil_all(self):
        """Nothing is loaded any more."""
        unload()
        for network in list(self.networks):
            self.spoil(network)

    def spoil(self, network):
        if network in self.kept:
            return
        tensors = list(network.parameters())  # no buffers: schedules are read before a run
        self.kept[network] = [tensor.clone() for tensor in tensors]
        state = {key: value.clone() for key, value in nn.Module.state_dict(network).items()}
        network.state_dict = lambda *args, **kwargs: state  # to read weights where they lie is nobody's fault
        with torch.inference_mode():
            for tensor in tensors:
                tensor.fill_(float("nan"))

    def cure(self, network):
        if network not in self.kept:
            return
        del network.state_dict
        with torch.inference_mode():
            for tensor, value in zip(network.parameters(), self.kept.pop(network), strict=True):
                tensor.copy_(value)

    def cure_all(self):
        for network in list(self.kept):
            self.cure(network)
