"""Listing folders and buckets."""
