# SPDX-License-Identifier: Apache-2.0
"""Loops of gradient steps for MXFusion's ``GradBasedInference``: imperative or compiled, on all data or in minibatches.

A stepper makes the steps, :mod:`~mxfusion_mvn.inference.loops.training` drives and follows them, and a record
remains.
"""
