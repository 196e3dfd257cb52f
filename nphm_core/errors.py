"""The exceptions that a user may see.

Every message says what is wrong, what was expected, and what to do; paths and subject ids stand at its end,
so that the first half can be posted in public.
"""


class NphmError(Exception):
    """Base of every error that wrong data, files or settings can cause.

    Anything else that escapes a command is a bug of ours.
    """


class ConfigError(NphmError):
    """A setting is unknown, has a wrong type, or contradicts another one."""


class ScanTableError(NphmError):
    """The scan table cannot be used as it is."""


class ScanFileError(NphmError):
    """A scan file cannot be read, or what it holds is no surface."""


class ScanUnitError(NphmError):
    """The scan's unit contradicts the size of the head in it."""


class FaceNotFoundError(NphmError):
    """No face was found in any view of a scan."""


class SeveralFacesError(NphmError):
    """More than one head was found in one scan."""


class LandmarkError(NphmError):
    """The landmarks of a scan cannot be trusted."""


class DamagedFileError(NphmError):
    """A file that a stage wrote is missing, incomplete or of another kind."""


class TimeLimitError(NphmError):
    """A stage did not end within its time limit."""


class CrashError(NphmError):
    """A library crashed the interpreter on the data of a scan, twice."""


class LandmarkFileError(NphmError):
    """A landmark file of the scan table cannot be read, or does not belong to its scan."""


class TemplateError(NphmError):
    """A template or head model file is missing, damaged or of an unknown kind."""


class TopologyError(NphmError):
    """A mesh does not have the topology of the template that it is used with."""


class RegistrationError(NphmError):
    """The template could not be brought to the scan."""


class SamplingError(NphmError):
    """Training samples cannot be drawn from these meshes."""


class CheckpointError(NphmError):
    """A trained model cannot be used: damaged, of an unknown kind, or of another template."""


class TrainingError(NphmError):
    """A model cannot be trained on these samples."""


class FittingError(NphmError):
    """No codes could be found that explain the observed points."""


class ExportError(NphmError):
    """Something cannot be exported in the format that was asked for."""


class ViewerError(NphmError):
    """The live viewer cannot be started, or cannot show what was asked for."""
