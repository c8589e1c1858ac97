"""The metadata is in setup.cfg. This file lets tools that look for a setup.py find it."""

from setuptools import setup

setup()
