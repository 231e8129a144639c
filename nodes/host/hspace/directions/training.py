"""Training an edit of h-space by two texts on any network that has h: Asyrp's loop as a SAMPLER, resumable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import comfy.model_management as mm
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor, nn

from .....guidance.hspace import BUCKETS, asymmetric_step, at_progress
from .....guidance.hspace_training import LOSSES, directional, reconstruction, text_direction
from .....guidance.views import look
from .....models.asyrp.network import DeltaConfig, delta_block
from .....models.ddpm.network import DDPM
from ...gradients import attention, differentiable
from ...guides.encoder import Encoder
from ...inversion import invert_latent
from ...model import is_flow, owner_of, progress_function
from ...pictures import Decoder
from ...pixel_model import PixelNetwork, clamp
from ...sampling import sampled
from ..edit import BOTH, Edit, Place, Prediction, direction_edit, network_edit, network_of
from ..run import applied
from .resume import StateFile, UnfittingError, digest, packed, take_up, weights_of

ONE, BY_LEVEL, BLOCK = "one direction", "a direction by noise level", "delta block"
FORMS = (ONE, BY_LEVEL, BLOCK)
OPTIMIZERS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}
AT_ONCE = 4  # pictures in a step
WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])  # a view of the whole picture
ALMOST_CLEAN = 1e-4  # sigma at which a noise-aware encoder looks


@dataclass(frozen=True)
class Recipe:
    """What is trained and how. `keep` is lambda_recon, `pull` lambda_CLIP of the paper."""

    source_text: str
    target_text: str
    form: str
    loss: str
    rounds: int  # through all pictures
    steps: int
    end_percent: float  # t_edit
    pull: float
    keep: float
    optimizer: str
    learning_rate: float
    seed: int
    samples: int
    block: int | None = None  # of a transformer
    pictures: str = ""  # fingerprint of the user's own; empty: drawn by the model


class Direction(nn.Module):
    """delta_h [n C h w] for n ranges of progress, in units of the usual |h| of an element."""

    unit: Tensor

    def __init__(self, count: int, h: Tensor):
        super().__init__()
        self.register_buffer("unit", h.detach().float().square().mean().sqrt().clone())
        self.relative = nn.Parameter(torch.zeros(count, *h.shape[1:], device=h.device))

    def forward(self, h: Tensor, emb: Tensor, progress: float) -> Tensor:
        return at_progress(self.relative * self.unit, progress, h)


class Block(nn.Module):
    """A delta block of the architecture's own kind."""

    def __init__(self, network: Any, h: Tensor, emb: Tensor):
        super().__init__()
        config = DeltaConfig(h.shape[1], emb.shape[1], norm_first=not isinstance(network, DDPM))
        self.block = delta_block(config).to(h.device)

    def forward(self, h: Tensor, emb: Tensor, progress: float) -> Tensor:
        return self.block(h.float(), emb.float()).to(h)


class TrainedEdit:
    """Of `Edits`, with a delta_h that is being trained: h + delta_h while `on`, h itself otherwise."""

    asymmetric, side, rising = False, BOTH, False  # the sampler below makes the asymmetric step itself

    def __init__(self, recipe: Recipe, network: Any):
        self.recipe, self.block = recipe, recipe.block
        self.network = network
        self.begin({})

    def begin(self, known: dict[str, Tensor]) -> None:
        """Anew, or from what is known of a run that was stopped."""
        self.on = False
        self.delta: Direction | Block | None = None  # made when h is first seen
        self.optimizer: Any = None
        self.known = known

    def weight(self, progress: float) -> float:
        """1 while the edited prediction is made."""
        return float(self.on)

    def edited(self, h: Tensor, emb: Tensor, place: Place) -> Tensor:
        if self.delta is None:
            self.build(h, emb)
        assert self.delta is not None
        return h + self.delta(h, emb, place.progress)

    def wanted(self, place: Place, prediction: Prediction, difference: Tensor) -> Tensor:
        return prediction.b * difference

    def build(self, h: Tensor, emb: Tensor) -> None:
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.recipe.seed)  # the CPU's alone, which is put back
            if self.recipe.form == BLOCK:
                self.delta = Block(self.network.network, h, emb)
            else:
                self.delta = Direction(BUCKETS if self.recipe.form == BY_LEVEL else 1, h)
            self.optimizer = OPTIMIZERS[self.recipe.optimizer](self.delta.parameters(), lr=self.recipe.learning_rate)
            if self.known:
                take_up(self.known, self.delta, self.optimizer)

    def edit(self, model: Any) -> Edit:
        """What was learned, for HSpace Edit."""
        assert self.delta is not None
        owner, fingerprint = owner_of(model)
        known: dict[str, Any] = {"name": self.recipe.target_text, "model": owner, "fingerprint": fingerprint}
        known["block"] = self.block
        if isinstance(self.delta, Block):
            return network_edit(self.delta.block.cpu(), trained_steps=self.recipe.steps, **known)
        return direction_edit((self.delta.relative * self.delta.unit).detach().cpu(), **known)


class TrainingSampler(comfy.samplers.Sampler):
    """A SAMPLER that makes one step of the optimiser a step of the run, until t_edit. Its sample is thrown away."""

    def __init__(self, job: Training, pictures: Tensor):
        self.job, self.pictures = job, pictures

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        sampling = model_wrap.inner_model.model_sampling
        x = sampling.noise_scaling(sigmas[0], noise, latent_image, True)
        options = extra_args["model_options"]
        transformer = {**options.get("transformer_options", {}), "optimized_attention_override": attention}
        extra_args = {**extra_args, "model_options": {**options, "transformer_options": transformer}}
        for sigma, following in zip(sigmas[:-1], sigmas[1:], strict=True):
            if self.job.progress_of(float(sigma)) >= self.job.recipe.end_percent:
                break
            mm.throw_exception_if_processing_interrupted()
            level = sigma.expand(len(x))
            plain, edited = self.job.step(partial(model_wrap, x, level, **extra_args), self.pictures)
            x = asymmetric_step(x, plain, edited, float(sigma), float(following), is_flow(sampling))
        return x


class Training:
    """One training run: the trained, its losses, and the file that lets a killed run go on."""

    def __init__(self, model: Any, encoder: Encoder, vae: Any | None, conditioning: Any, recipe: Recipe):
        """Raises ValueError for models that have no h, for forms they can't have, and for texts that are one."""
        self.recipe, self.encoder, self.conditioning = recipe, encoder, conditioning
        network = network_of(model)
        if recipe.form == BLOCK and not isinstance(network, PixelNetwork):
            raise ValueError(f"a {BLOCK} is made for this pack's models; for others, as SD1.5 and SDXL, choose {ONE!r}")
        self.delta_text = text_direction(encoder.text(recipe.source_text), encoder.text(recipe.target_text))
        self.decoder = Decoder(model, vae)
        self.trained = TrainedEdit(recipe, network)
        patchers = [*encoder.patchers, *([] if vae is None else [vae.patcher])]
        self.model = applied(without_clamp(model), self.trained, patchers)
        self.progress_of = progress_function(model.get_model_object("model_sampling"))
        self.losses: list[list[float]] = []  # L_direction of the steps of each batch

    def run(self, starts: Sequence[tuple[Tensor, Tensor]], sigmas: Tensor) -> int:
        """Trains on batches of (unit noise, clean samples) over falling sigmas; how many batches were known already."""
        file = StateFile(self.name(starts, sigmas))
        known, self.losses = file.load()
        self.trained.begin(known)
        before = len(self.losses)
        try:
            self._rounds(file, starts, sigmas)
        except UnfittingError as error:
            file.set_aside(error)
            self.trained.begin({})
            self.losses, before = [], 0
            self._rounds(file, starts, sigmas)
        file.remove()
        return before

    def name(self, starts: Sequence[tuple[Tensor, Tensor]], sigmas: Tensor) -> str:
        """Of all that the result depends on."""
        patches = {key: [part[0] for part in parts] for key, parts in self.model.patches.items()}
        model = [*owner_of(self.model), patches]
        encoder = [self.encoder.name, weights_of(self.encoder.network)]
        vae = None if self.decoder.vae is None else weights_of(self.decoder.vae.first_stage_model)
        shapes = [list(noise.shape) for noise, _ in starts]
        return digest(asdict(self.recipe), model, encoder, vae, self.conditioning, shapes, sigmas)

    def _rounds(self, file: StateFile, starts: Sequence[tuple[Tensor, Tensor]], sigmas: Tensor) -> None:
        """The batches that are not done yet; the file after each."""
        total = self.recipe.rounds * len(starts)
        bar = comfy.utils.ProgressBar(total)
        guider = comfy.samplers.CFGGuider(self.model)
        guider.inner_set_conds({"positive": self.conditioning})
        done = len(self.losses)
        if done >= total or (done and not self.trained.known):
            raise UnfittingError(f"it knows {done} of {total} batches, and a run that is finished leaves no file")
        for index in range(done, total):
            noise, pictures = starts[index % len(starts)]
            self.losses.append([])
            sampler = TrainingSampler(self, pictures)
            guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True, seed=0)
            if index + 1 < total and self.trained.delta is not None:
                file.save(packed(self.trained.delta, self.trained.optimizer), self.losses)
            bar.update_absolute(index + 1)

    def step(self, predict: Callable[[], Tensor], pictures: Tensor) -> tuple[Tensor, Tensor]:
        """One step of the optimiser: (P, P~), both from before it."""
        self.trained.on = False
        plain = predict().detach()
        self.trained.on = True
        with differentiable(network_of(self.model)):
            edited = predict()
            loss, l_dir = self.loss(edited, plain.clone(), pictures.to(edited).clone())
            self.trained.optimizer.zero_grad()
            loss.backward()
            self.trained.optimizer.step()
        self.trained.on = False
        self.losses[-1].append(float(l_dir))
        return plain, edited.detach()

    def loss(self, edited: Tensor, plain: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars: what is minimised, and L_direction."""
        recipe, seen = self.recipe, self.embedding(edited)
        with torch.no_grad():
            before = self.embedding(plain if recipe.loss == "paper" else pictures)
        l_dir = directional(seen, before, self.delta_text.to(seen)).mean()
        return recipe.pull * LOSSES[recipe.loss](l_dir) + recipe.keep * reconstruction(edited, plain).mean(), l_dir

    def embedding(self, z: Tensor) -> Tensor:
        """Of clean samples as the model has them, [B D]."""
        pictures = look(self.decoder.pixels(z, self.encoder.size), WHOLE, self.encoder.size)
        return self.encoder.embed(pictures, pictures.new_full((len(pictures),), ALMOST_CLEAN))


def without_clamp(model: Any) -> Any:
    """The pack's own clamp of x0 has no gradient where it matters, at pure black and white."""
    model = model.clone()
    functions = model.model_options.get("sampler_post_cfg_function", [])
    model.model_options["sampler_post_cfg_function"] = [function for function in functions if function is not clamp]
    return model


def starts_of(
    model: Any, conditioning: Any, sigmas: Tensor, pictures: Tensor | None, noise: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Batches of (unit noise, clean samples as the model has them).

    Of `pictures`, latents in their outside form, by inversion over rising sigmas; otherwise of what the model draws
    from `noise`.
    """
    found: list[tuple[Tensor, Tensor]] = []
    for part in (noise if pictures is None else pictures).split(AT_ONCE):
        mm.throw_exception_if_processing_interrupted()
        if pictures is None:
            start, clean = part, sampled(model, conditioning, part, len(sigmas))
        else:
            start, clean = invert_latent(model, part, conditioning, sigmas)[0].x_T, part
        found.append((start, model.model.process_latent_in(clean)))
    return found
