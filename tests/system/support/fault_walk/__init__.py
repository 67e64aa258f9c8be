"""The fault walk: cloud or agent is killed at each fault point of each scenario, then the scenario runs again."""
