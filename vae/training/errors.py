"""What goes wrong in a training that was well asked for."""


class TrainingDiverged(ValueError):
    """A term became infinite or NaN; the message names the step, the term and what to try."""
