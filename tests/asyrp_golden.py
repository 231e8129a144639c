"""The networks of the two Asyrp golden files."""

import golden_files
from adm_golden import encoder_arguments
from pack.models.adm import network as adm
from pack.models.ddpm import network as ddpm

CASES = ("asyrp_ddpm_16px", "asyrp_improved_ddpm_16px")


def network(arguments):
    model = dict(arguments["model"])
    size = arguments["image_size"]
    if arguments["family"] == "ddpm":
        levels = [level for level in range(len(model["ch_mult"])) if size >> level in model["attn_resolutions"]]
        config = ddpm.DDPMConfig(model["ch"], tuple(model["ch_mult"]), model["num_res_blocks"], tuple(levels))
        built = ddpm.DDPM(config)
    else:
        del model["image_size"]
        built = adm.UNet(adm.UNetConfig(**encoder_arguments(model)))
    return golden_files.fill(built, arguments["salt"])
