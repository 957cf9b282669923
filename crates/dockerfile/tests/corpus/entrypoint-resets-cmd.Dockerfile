FROM base
ENTRYPOINT ["e"]
FROM base
CMD ["c"]
ENTRYPOINT ["e"]
