"""The log on Kafka. `README.md` beside this file tells the life of a write and what does not work.

Only this package imports the client library. Everything here has a time limit.
"""
