package storetest

var settleCases, editCases, listCases, faultCases, restartCases, concurrencyCases []queueCase
