"""The cases, a module for each thing they are about; all are found by being here."""
