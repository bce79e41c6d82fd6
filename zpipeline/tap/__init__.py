"""The options and services of the twistd plugins."""
