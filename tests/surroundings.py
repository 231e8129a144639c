"""What is not the pack's and must be as it was: the host's modules, torch's flags, the process."""

import logging
import os
import signal
import sys
import threading
import warnings

import torch

HOST = ("comfy", "nodes", "folder_paths", "execution", "latent_preview", "comfy_extras", "comfy_execution")
FLAGS = {
    "gradients": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "deterministic": torch.are_deterministic_algorithms_enabled,
    "default type": torch.get_default_dtype,
    "threads": torch.get_num_threads,
    "precision": torch.get_float32_matmul_precision,
    "TF32 in products": lambda: torch.backends.cuda.matmul.allow_tf32,
    "TF32 in convolutions": lambda: torch.backends.cudnn.allow_tf32,
    "benchmark": lambda: torch.backends.cudnn.benchmark,
    "flash attention": torch.backends.cuda.flash_sdp_enabled,
    "math attention": torch.backends.cuda.math_sdp_enabled,
    "autocast": torch.is_autocast_enabled,
    "functions of tensors": lambda: torch.overrides._get_current_function_mode_stack(),
}


def host_contents():
    return {
        (name, key): id(value)
        for name, module in list(sys.modules.items())
        if name.split(".")[0] in HOST
        for key, value in vars(module).items()
        if key != "__warningregistry__"
    }


def surroundings():
    """Everything that is not ours, by a name that says what."""
    found = {name: flag() for name, flag in FLAGS.items()}
    found |= {f"variable {key}": value for key, value in os.environ.items()}
    found |= {f"signal {number}": signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loggers = {"root": logging.root, "torch": logging.getLogger("torch")}
    found |= {f"log {name}": (logger.level, list(logger.handlers)) for name, logger in loggers.items()}
    found |= {
        "hook": sys.excepthook,
        "folder": os.getcwd(),
        "path": list(sys.path),
        "recursion": sys.getrecursionlimit(),
    }
    found |= {
        "threads of Python": {thread.name for thread in threading.enumerate()},
        "warnings": list(warnings.filters),
    }
    return found
