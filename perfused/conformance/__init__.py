"""Suites that say whether something behaves as its specification and manual pages demand.

They ask through system calls only, and never how the thing under test is made.
"""
