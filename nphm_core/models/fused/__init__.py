"""The ensemble's core as Triton kernels; a GPU only. The plain operations of the package above are the reference.

Import nothing from here where Triton may be missing: `identity_field` does so only once it knows that the field lies on
a GPU.
"""
