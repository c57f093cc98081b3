from .object_aware_filter import ObjectAwareFilter

__all__ = ['ObjectAwareFilter']
