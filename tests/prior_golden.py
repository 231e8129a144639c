"""The priors of the golden files, with the weights of their rule, and their loops in sigma space."""

import json
from pathlib import Path

import golden_files
import torch
from safetensors.torch import save_file

from pack.guidance.sampling import fixed_small, respaced, sample_ddpm
from pack.models.prior.network import DiffusersPrior, KarloPrior, PriorConfig
from pack.models.schedule import NoiseSchedule

CASES = {"karlo": "unclip_karlo_prior", "kandinsky": "unclip_kandinsky_prior"}


def stored(which, name):
    """Puts a prior into the folder of the loader, as one of our own files; returns its name."""
    import folder_paths

    run = Published(which)
    folder = Path(folder_paths.get_folder_paths("guidance_priors")[0])
    folder.mkdir(parents=True, exist_ok=True)
    architecture = {"karlo": "karlo_prior", "kandinsky": "diffusers_prior"}[which]
    metadata = {"architecture": architecture, "config": json.dumps(vars(run.network.config))}
    save_file(run.network.state_dict(), folder / name, metadata)
    torch.save((run.mean, run.std), folder / "stats.th")
    torch.save((run.mean[:-1], run.std[:-1]), folder / "narrow.th")
    folder_paths.filename_list_cache.clear()
    return name


class Published:
    def __init__(self, which):
        self.which = which
        self.arguments, self.golden = golden_files.load(CASES[which])
        arguments = self.arguments
        if which == "karlo":
            model = arguments["model"]
            config = PriorConfig(
                model["xf_width"], model["xf_layers"], model["xf_heads"], model["clip_dim"], model["text_ctx"]
            )
            build = KarloPrior
        else:
            heads = arguments["heads"]
            config = PriorConfig(
                heads * arguments["head_dim"], arguments["layers"], heads, arguments["dim"], arguments["words"]
            )
            build = DiffusersPrior
        self.network = golden_files.fill(build(config), arguments["salt"])
        self.mean, self.std = (self.golden[key].flatten() for key in ("clip_mean", "clip_std"))
        if which == "kandinsky":
            state = self.network.state_dict() | {key: self.golden[key] for key in ("clip_mean", "clip_std")}
            self.network.load_state_dict(state)

    @property
    def last(self):
        return self.network.out_proj if self.which == "karlo" else self.network.proj_to_clip_embeddings

    def texts(self, rows):
        return [self.golden[f"text.{part}"][rows] for part in ("states", "pooled")] + [
            self.golden["text.mask"][rows].bool()
        ]

    @property
    def halves(self):
        """Rows of what is wanted, and of the null."""
        half = len(self.golden["text.states"]) // 2
        first, second = slice(0, half), slice(half, None)
        return (first, second) if self.which == "karlo" else (second, first)

    @property
    def steps(self):
        return self.arguments["respacing" if self.which == "karlo" else "steps"]

    @property
    def start(self):
        """Unit noise."""
        return self.golden["x_T.doubled"][:2] if self.which == "karlo" else self.golden["x_T"]

    def noise(self, index):
        shape = (4, 24) if self.which == "karlo" else (2, 24)
        return golden_files.draw(shape, self.arguments["seed"] + 1000 + index)[:2]

    def run(self, clamp):
        schedule = NoiseSchedule.named("cosine")
        sigmas = [*reversed(schedule.sigmas[respaced(str(self.steps))].tolist()), 0.0]
        cond, null = (self.texts(rows) for rows in self.halves)

        def predict(x, sigma):
            t, scaled = schedule.nearest(sigma), x / (1 + sigma[:, None] ** 2) ** 0.5
            wanted, free = (self.network(scaled, t, *text) for text in (cond, null))
            return (free + self.arguments["cfg_scale"] * (wanted - free)).clamp(-clamp, clamp), None

        start = self.start * (1 + sigmas[0] ** 2) ** 0.5
        with torch.no_grad():
            return sample_ddpm(predict, start, sigmas, self.noise, variance=fixed_small) * self.std + self.mean
