#!/bin/sh
echo the colour is green
