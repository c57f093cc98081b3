# Renamed to configs/cotap/toy_init.py; this name works for one more release.
_base_ = '../cotap/toy_init.py'
renamed = ('configs/toy_vit/clusters.py', 'configs/cotap/toy_init.py')
