"""What can go wrong, each told in one sentence."""


class SweepError(Exception):
    """The sweep can't start or go on; says what to do."""


class JobError(Exception):
    """A host refused one job or failed in it; says why."""


class LostHostError(Exception):
    """A host died, forgot its job, or answers nonsense; says which and how."""


class StoppedError(Exception):
    """The sweep is being stopped; the job was called back."""
