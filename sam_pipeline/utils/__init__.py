"""The functions of segment_anything/utils/, under the name that scripts import them by.

No other room of this project is called so: here the official name wins. See docs/porting.md.
"""
