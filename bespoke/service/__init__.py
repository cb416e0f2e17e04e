"""The service: devices, campaigns, searches and subnets over HTTP.

``app`` assembles, ``routers`` answer, ``store`` queries, ``artifacts`` keeps bytes, ``engines`` run
jobs, ``workflows`` are the jobs, and ``tasks`` is the heavy work that child processes do: the only
place where torch is imported. The API process never imports it.
"""
