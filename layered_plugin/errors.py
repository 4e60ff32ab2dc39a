"""What a user can mend, as exceptions: the text says what is wrong with which file or option.

The commands show the text alone, without a traceback.
"""



class BaseError(ImportError):
    """The chosen base cannot be used; the text says which folder, why, and what to do."""


class CheckpointError(Exception):
    """A run folder or checkpoint cannot be used; the text names it."""


class NonFiniteLossError(Exception):
    """A loss is infinite or not a number; the text names quantity, phase and kimg."""


class CollapsedError(Exception):
    """The layers have collapsed for good; the text names the findings and the remedy."""


class PictureError(Exception):
    """A data set or one of its pictures cannot be read; the text names the file."""


class TeacherError(Exception):
    """A teacher can't be had, or can't judge these pictures; the text names the file or the class."""


class ImpossibleRecipeError(Exception):
    """No picture with large enough objects came out."""


class CrowdedError(Exception):
    """There is no room for so many objects of this size."""


class UnusableError(Exception):
    """Reason why a file cannot serve."""


class ModelError(Exception):
    """A trained model can't be used; the text names its file."""


class ExportError(Exception):
    """A model can't be exported; the text says why."""


class FidelityError(Exception):
    """FID and KID can't be computed; the text names the file or package wanted."""


class MissingLibraryError(ImportError):
    """A baseline needs an optional library; the text names the extra that brings it."""


class ReportError(Exception):
    """A report can't be made; the text names the option or file."""
